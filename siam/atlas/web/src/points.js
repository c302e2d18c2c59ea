// Draw the points: WebGL 2, or a 2D canvas where it is missing. Both draw the first `count` of a shuffled order,
// so that a part of it, which is drawn while a large map moves, looks like the whole.

const VERTEX = `#version 300 es
in vec2 place; in vec3 color; in float state;
uniform vec2 scale; uniform vec2 offset; uniform float size;
out vec4 paint;
void main() {
  gl_Position = vec4(place * scale + offset, 0.0, 1.0);
  gl_PointSize = state > 1.5 ? size * 1.35 + 1.0 : size;
  paint = vec4(color, state < 0.5 ? 0.1 : state > 1.5 ? 1.0 : 0.8);
}`

const FRAGMENT = `#version 300 es
precision mediump float;
in vec4 paint; out vec4 pixel;
uniform bool small;
void main() {
  float cover = small ? 1.0 : 1.0 - smoothstep(0.4, 0.5, distance(gl_PointCoord, vec2(0.5)));
  pixel = vec4(paint.rgb, 1.0) * (paint.a * cover);
}`

export const [DIM, PLAIN, CHOSEN] = [0, 1, 2]

// Fisher and Yates, by a fixed seed: a map looks the same each time.
export function shuffled(n) {
  const order = new Uint32Array(n)
  let seed = 1
  for (let i = 0; i < n; i++) {
    seed = (Math.imul(seed, 1664525) + 1013904223) >>> 0
    const j = Math.floor((seed / 2 ** 32) * (i + 1))
    order[i] = order[j]
    order[j] = i
  }
  return order
}

export function pointSize(n, zoom) {
  const base = n > 300000 ? 1.6 : n > 50000 ? 2.4 : n > 8000 ? 3.6 : n > 1500 ? 5 : 7
  return Math.min(14, base * Math.max(1, zoom) ** 0.3)
}

export function openPoints(canvas, points, order) {
  const gl = canvas.getContext('webgl2', { antialias: false, alpha: false, depth: false, powerPreference: 'high-performance' })
  return gl ? new GlPoints(canvas, gl, points, order) : new PlainPoints(canvas, points, order)
}

class GlPoints {
  constructor(canvas, gl, points, order) {
    Object.assign(this, { canvas, gl, order, kind: 'webgl' })
    this.places = new Float32Array(points.length)
    for (let i = 0; i < order.length; i++) this.places.set(points.subarray(2 * order[i], 2 * order[i] + 2), 2 * i)
    this.looks = new Uint8Array(4 * order.length) // red, green, blue, state
    this.begin()
    canvas.addEventListener('webglcontextlost', (event) => event.preventDefault())
    canvas.addEventListener('webglcontextrestored', () => this.begin())
  }

  begin() {
    const { gl } = this
    const program = gl.createProgram()
    for (const [kind, source] of [[gl.VERTEX_SHADER, VERTEX], [gl.FRAGMENT_SHADER, FRAGMENT]]) {
      const shader = gl.createShader(kind)
      gl.shaderSource(shader, source)
      gl.compileShader(shader)
      gl.attachShader(program, shader)
    }
    gl.linkProgram(program)
    gl.useProgram(program)
    gl.enable(gl.BLEND)
    gl.blendFunc(gl.ONE, gl.ONE_MINUS_SRC_ALPHA)
    this.uniforms = Object.fromEntries(['scale', 'offset', 'size', 'small'].map((name) => [name, gl.getUniformLocation(program, name)]))
    const attribute = (name, size, kind, normalized, stride, offset) => {
      const at = gl.getAttribLocation(program, name)
      gl.enableVertexAttribArray(at)
      gl.vertexAttribPointer(at, size, kind, normalized, stride, offset)
    }
    gl.bindBuffer(gl.ARRAY_BUFFER, gl.createBuffer())
    gl.bufferData(gl.ARRAY_BUFFER, this.places, gl.STATIC_DRAW)
    attribute('place', 2, gl.FLOAT, false, 8, 0)
    gl.bindBuffer(gl.ARRAY_BUFFER, gl.createBuffer()) // stays bound, for `looks`
    attribute('color', 3, gl.UNSIGNED_BYTE, true, 4, 0)
    attribute('state', 1, gl.UNSIGNED_BYTE, false, 4, 3)
    this.stale = true
  }

  paint(rgb) {
    for (let i = 0; i < this.order.length; i++) {
      const at = 3 * this.order[i]
      this.looks[4 * i] = rgb[at]
      this.looks[4 * i + 1] = rgb[at + 1]
      this.looks[4 * i + 2] = rgb[at + 2]
    }
    this.stale = true
  }

  mark(states) {
    for (let i = 0; i < this.order.length; i++) this.looks[4 * i + 3] = states[this.order[i]]
    this.stale = true
  }

  draw(camera, ratio, count, size) {
    const { gl, uniforms } = this
    if (this.stale) gl.bufferData(gl.ARRAY_BUFFER, this.looks, gl.DYNAMIC_DRAW)
    this.stale = false
    const [sx, sy] = [(2 * camera.unit) / camera.width, (2 * camera.unit) / camera.height]
    gl.viewport(0, 0, this.canvas.width, this.canvas.height)
    gl.clearColor(...paper(), 1) // an opaque canvas is laid over the page without blending
    gl.clear(gl.COLOR_BUFFER_BIT)
    gl.uniform2f(uniforms.scale, sx, sy)
    gl.uniform2f(uniforms.offset, -camera.x * sx, -camera.y * sy)
    gl.uniform1f(uniforms.size, size * ratio)
    gl.uniform1i(uniforms.small, size * ratio < 3 ? 1 : 0)
    gl.drawArrays(gl.POINTS, 0, count)
  }
}

function paper() {
  const color = getComputedStyle(document.documentElement).getPropertyValue('--paper').trim()
  return [1, 3, 5].map((at) => parseInt(color.slice(at, at + 2), 16) / 255)
}

class PlainPoints {
  constructor(canvas, points, order) {
    Object.assign(this, { canvas, points, order, kind: 'canvas', context: canvas.getContext('2d') })
  }

  paint(rgb) {
    this.rgb = rgb
  }

  mark(states) {
    this.states = states
  }

  draw(camera, ratio, count, size) {
    const { width, height } = this.canvas
    const image = this.context.createImageData(width, height)
    const pixels = new Uint32Array(image.data.buffer)
    const side = Math.max(1, Math.round(size * ratio * 0.85))
    const [unit, half] = [camera.unit * ratio, side >> 1]
    for (const pass of [DIM, PLAIN, CHOSEN]) { // chosen points above the others
      for (let i = 0; i < count; i++) {
        const row = this.order[i]
        if (this.states[row] !== pass) continue
        const x = Math.round((this.points[2 * row] - camera.x) * unit + width / 2) - half
        const y = Math.round((camera.y - this.points[2 * row + 1]) * unit + height / 2) - half
        if (x < 0 || y < 0 || x + side > width || y + side > height) continue
        const [r, g, b] = this.rgb.subarray(3 * row, 3 * row + 3)
        const value = ((pass === DIM ? 40 : 235) << 24) | (b << 16) | (g << 8) | r
        for (let v = y; v < y + side; v++) pixels.fill(value, v * width + x, v * width + x + side)
      }
    }
    this.context.putImageData(image, 0, 0)
  }
}
