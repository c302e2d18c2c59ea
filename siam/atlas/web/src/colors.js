// Colors of classes and numbers, evenly light in OKLCH, for both themes.

const dark = () => document.documentElement.dataset.theme === 'dark'

// OKLCH -> sRGB bytes (Ottosson 2020).
function oklch(l, c, hue) {
  const [a, b] = [c * Math.cos((hue * Math.PI) / 180), c * Math.sin((hue * Math.PI) / 180)]
  const [p, q, r] = [
    (l + 0.3963377774 * a + 0.2158037573 * b) ** 3,
    (l - 0.1055613458 * a - 0.0638541728 * b) ** 3,
    (l - 0.0894841775 * a - 1.291485548 * b) ** 3,
  ]
  return [
    4.0767416621 * p - 3.3077115913 * q + 0.2309699292 * r,
    -1.2684380046 * p + 2.6097574011 * q - 0.3413193965 * r,
    -0.0041960863 * p - 0.7034186147 * q + 1.707614701 * r,
  ].map((v) => Math.round(255 * Math.min(1, Math.max(0, v <= 0.0031308 ? 12.92 * v : 1.055 * v ** (1 / 2.4) - 0.055))))
}

export const css = ([r, g, b]) => `rgb(${r} ${g} ${b})`

export const none = () => (dark() ? [92, 101, 112] : [178, 185, 194])

// Hues apart by the golden angle, so that any number of classes in a row differ.
export function ofClass(i) {
  const tier = Math.floor(i / 8) % 3
  const lightness = (dark() ? 0.76 : 0.63) + [0, -0.11, 0.08][tier]
  return oklch(lightness, [0.14, 0.11, 0.1][tier], (255 + i * 137.508) % 360)
}

// A fraction of a range: from quiet to loud.
export function ofFraction(t) {
  return dark() ? oklch(0.42 + 0.45 * t, 0.05 + 0.1 * t, 265 - 190 * t) : oklch(0.83 - 0.3 * t, 0.05 + 0.13 * t, 250 - 215 * t)
}

// The range that colors span: the 2 % at each end do not set it.
export function rangeOf(data) {
  const step = Math.max(1, Math.floor(data.length / 20000))
  const sample = []
  for (let i = 0; i < data.length; i += step) if (!Number.isNaN(data[i])) sample.push(data[i])
  sample.sort((a, b) => a - b)
  if (!sample.length) return [0, 1]
  const at = (q) => sample[Math.min(sample.length - 1, Math.floor(q * sample.length))]
  const [low, high] = [at(0.02), at(0.98)]
  return low < high ? [low, high] : [sample[0], Math.max(sample[sample.length - 1], sample[0] + 1e-9)]
}

// RGB of each row by a column, uint8 (3 n).
export function paint(column, n) {
  const rgb = new Uint8Array(3 * n)
  const missing = none()
  const table = []
  let index = (i) => column.data[i]
  if (column.kind === 'number') {
    const [low, high] = (column.range ??= rangeOf(column.data))
    for (let i = 0; i < 256; i++) table.push(ofFraction(i / 255))
    index = (i) => (Number.isNaN(column.data[i]) ? -1 : Math.round(255 * Math.min(1, Math.max(0, (column.data[i] - low) / (high - low)))))
  } else {
    for (let i = 0; i < column.values.length; i++) table.push(ofClass(i))
  }
  for (let i = 0; i < n; i++) rgb.set(table[index(i)] ?? missing, 3 * i)
  return rgb
}
