// The bar above the map, the legend, and files dropped onto the page.

import { css, ofClass, ofFraction, rangeOf } from './colors.js'
import { $, h, note, plural, shown, swatch, thousands } from './dom.js'
import { openHelp } from './keyboard.js'

const LINES = 14 // of the legend

export function wireControls(app) {
  const { map, store, actions, view } = app
  $('name').textContent = shown(map.facts.title)
  $('name').title = shown(map.facts.title)
  $('count').textContent = plural(map.n, 'image')
  $('color').addEventListener('change', () => store.set({ color: $('color').value, highlight: null, picked: null }))
  for (const tool of ['lasso', 'pictures']) {
    $(tool).addEventListener('click', () => actions.toggle(tool))
    store.on(tool, () => $(tool).setAttribute('aria-pressed', store[tool]))
  }
  $('fit').addEventListener('click', () => view.fit())
  $('theme').addEventListener('click', actions.switchTheme)
  $('help').addEventListener('click', openHelp)
  const colors = () => {
    $('color').replaceChildren(...[...map.columns.values()].map(({ name, title }) => h('option', { value: name, selected: name === store.color }, shown(title))))
    $('color').value = store.color
  }
  store.on('columns color', colors)
  store.on('columns color theme picked', () => legend(app))
  colors()
  $('legend').open = innerWidth > 700 // on a telephone it would hide the map
  legend(app)
  wireSearch(app)
  if (app.live) wireDrops(app)
}

function legend({ map, store }) {
  const column = map.columns.get(store.color)
  $('legend').hidden = !column
  if (!column) return
  const [title, lines] = $('legend').children
  title.textContent = shown(column.title)
  if (column.kind === 'number') return lines.replaceChildren(...ramp(column))
  const counts = new Map()
  for (const code of column.data) counts.set(code, (counts.get(code) ?? 0) + 1)
  const codes = [...counts.keys()].filter((code) => code >= 0).sort((a, b) => counts.get(b) - counts.get(a))
  const line = (code) => h('button', {
    type: 'button', 'aria-pressed': String(store.picked === code), title: shown(column.values[code]),
    onclick: () => store.set(store.picked === code ? { picked: null, highlight: null } : { picked: code, highlight: (row) => column.data[row] === code }),
  }, swatch(css(ofClass(code))), h('span', {}, shown(column.values[code])), h('small', {}, thousands(counts.get(code))))
  const more = codes.length - LINES
  lines.replaceChildren(...codes.slice(0, LINES).map(line), more > 0 ? h('p.muted.small', {}, `and ${thousands(more)} more`) : '')
}

function ramp(column) {
  const [low, high] = (column.range ??= rangeOf(column.data))
  const canvas = h('canvas.ramp', { width: 128, height: 1, role: 'img', 'aria-label': `${column.title} from ${low.toPrecision(3)} to ${high.toPrecision(3)}` })
  canvas.style.position = 'static'
  canvas.style.width = '11rem'
  canvas.style.height = '8px'
  const context = canvas.getContext('2d')
  for (let i = 0; i < 128; i++) {
    context.fillStyle = css(ofFraction(i / 127))
    context.fillRect(i, 0, 1, 1)
  }
  return [canvas, h('div.ends', { 'aria-hidden': 'true' }, h('span', {}, low.toPrecision(3)), h('span', {}, high.toPrecision(3)))]
}

function wireSearch({ map, store, actions, view }) {
  const input = $('query')
  let timer
  const look = async () => {
    await map.paths
    const rows = actions.find(input.value)
    if (!rows) {
      $('hits').textContent = ''
      store.set({ highlight: null, picked: null })
      return []
    }
    $('hits').textContent = plural(rows.length, 'match', 'matches')
    const found = new Uint8Array(map.n)
    for (const row of rows) found[row] = 1
    store.set({ highlight: (row) => found[row] === 1, picked: null })
    return rows
  }
  input.addEventListener('input', () => {
    clearTimeout(timer)
    timer = setTimeout(look, map.n > 100000 ? 250 : 60)
  })
  $('find').addEventListener('submit', async (event) => {
    event.preventDefault()
    clearTimeout(timer)
    const rows = await look()
    const exact = rows.filter((row) => map.path(row) === input.value)
    const [one] = exact.length ? exact : rows
    if (exact.length || rows.length === 1) {
      actions.open(one)
      view.goTo(one)
    } else if (rows.length) {
      actions.choose(rows, 'replace')
      view.goToRows(rows)
    } else if (input.value) note('No path has this in it')
  })
}

function wireDrops({ actions }) {
  const depth = { now: 0 }
  const over = (change) => (event) => {
    event.preventDefault()
    depth.now = Math.max(0, depth.now + change)
    $('drop').hidden = !depth.now
  }
  document.addEventListener('dragenter', over(1))
  document.addEventListener('dragleave', over(-1))
  document.addEventListener('dragover', (event) => event.preventDefault())
  document.addEventListener('drop', (event) => {
    over(-Infinity)(event)
    const [file] = event.dataTransfer.files
    if (file) actions.searchBy(file)
  })
  const picker = h('input', { type: 'file', accept: 'image/*', hidden: true, 'aria-label': 'Image to search by' })
  picker.addEventListener('change', () => picker.files[0] && actions.searchBy(picker.files[0]))
  const icon = $('pictures').cloneNode(true)
  icon.id = 'by-image'
  icon.removeAttribute('aria-pressed')
  icon.setAttribute('aria-label', 'Search by an image')
  icon.title = 'Search by an image (or drop one onto the map)'
  icon.querySelector('path').setAttribute('d', 'M10 13V7.5M7.5 10 10 7.5l2.5 2.5')
  icon.querySelector('circle').remove()
  icon.addEventListener('click', () => picker.click())
  $('lasso').before(icon, picker)
}
