// The map on the screen: frames, pictures over points, and the card of the image under the pointer.

import { Camera } from './camera.js'
import { css, none as colorless, paint } from './colors.js'
import { $, shown } from './dom.js'
import { Grid } from './grid.js'
import { CHOSEN, DIM, PLAIN, openPoints, pointSize, shuffled } from './points.js'

const FEW = 2500 // points in view, at most, to place pictures over them
const [MARKS, PICTURES, ALL] = [0, 1, 2] // what a frame draws anew: each with those before it

export class View {
  constructor(map, store) {
    Object.assign(this, { map, store, camera: new Camera(), moving: false, rings: [], trail: null, part: Math.min(1, 200000 / map.n) })
    this.canvas = $('points')
    this.overlay = $('overlay').getContext('2d')
    this.thumbs = $('thumbs').getContext('2d')
    this.level = ALL
    this.order = shuffled(map.n)
    this.points = openPoints(this.canvas, map.points, this.order)
    this.rank = new Uint32Array(map.n) // who gets a picture where there is room for one
    this.order.forEach((row, i) => (this.rank[row] = i + map.n))
    map.facts.clusters.forEach(({ representatives }) => representatives.forEach((row) => (this.rank[row] = row)))
    new ResizeObserver(() => this.resize()).observe($('map'))
    store.on('color theme columns', () => this.recolor())
    store.on('selection highlight', () => this.remark())
    store.on('open hover', () => this.request(MARKS))
    store.on('pictures', () => this.request(PICTURES))
    store.on('hover', () => this.showCard())
    this.resize()
    this.recolor()
    this.remark()
  }

  get grid() {
    return (this.index ??= new Grid(this.map.points))
  }

  resize() {
    const { clientWidth: width, clientHeight: height } = $('map')
    this.ratio = Math.min(2, window.devicePixelRatio || 1)
    Object.assign(this.camera, { width: Math.max(1, width), height: Math.max(1, height) })
    for (const canvas of [this.canvas, this.thumbs.canvas, this.overlay.canvas]) {
      canvas.width = Math.round(width * this.ratio)
      canvas.height = Math.round(height * this.ratio)
    }
    this.request()
  }

  recolor() {
    const column = this.map.columns.get(this.store.color)
    this.rgb = column ? paint(column, this.map.n) : new Uint8Array(3 * this.map.n).map((_, i) => colorless()[i % 3])
    this.points.paint(this.rgb)
    this.request()
  }

  remark() {
    const { selection, highlight } = this.store
    const states = new Uint8Array(this.map.n).fill(highlight || selection.size ? DIM : PLAIN)
    if (highlight) for (let i = 0; i < states.length; i++) if (highlight(i)) states[i] = PLAIN
    for (const row of selection) states[row] = CHOSEN
    this.points.mark(states)
    this.request()
  }

  request(level = ALL) {
    this.level = Math.max(this.level, level)
    this.frame ??= requestAnimationFrame((now) => {
      this.frame = null
      this.draw(now)
    })
  }

  // Mark the map as moving: a large one is drawn in part, as much as the machine draws smoothly, until it rests.
  move() {
    this.moving = true
    this.store.set({ hover: -1 })
    clearTimeout(this.rest)
    this.request()
  }

  // Draw everything once there was no frame of a move for a while; a slow machine needs a longer while.
  settle(took) {
    clearTimeout(this.rest)
    this.rest = setTimeout(() => {
      this.moving = false
      this.last = null
      this.request()
    }, Math.min(1200, Math.max(160, 2.5 * took)))
  }

  draw(now) {
    const { n } = this.map
    const took = this.moving && this.last ? now - this.last : 0
    if (took) {
      if (took > 36) this.part = Math.max(this.part * 0.8, Math.min(1, 20000 / n))
      else if (took < 22) this.part = Math.min(1, this.part * 1.1)
    }
    this.last = this.moving ? now : null
    if (this.moving) this.settle(took)
    if (this.level === ALL) {
      this.drawn = this.moving && !this.whole ? Math.round(n * this.part) : n
      this.points.draw(this.camera, this.ratio, this.drawn, pointSize(n, this.camera.zoom))
    }
    if (this.level >= PICTURES) this.drawPictures()
    this.drawMarks()
    this.level = MARKS
    this.frames = (this.frames ?? 0) + 1
  }

  // A canvas to draw on, or hidden: an empty one that is shown costs as much of a frame as a full one.
  cleared(context, empty) {
    if (!context.canvas.hidden) {
      context.setTransform(this.ratio, 0, 0, this.ratio, 0, 0)
      context.clearRect(0, 0, this.camera.width, this.camera.height)
    }
    context.canvas.hidden = empty
    context.setTransform(this.ratio, 0, 0, this.ratio, 0, 0)
    return context
  }

  // Rings around the images that are pointed at, and the lasso.
  drawMarks() {
    const rings = [[this.store.hover, 7], [this.store.open, 9], ...this.rings.map((row) => [row, 6])].filter(([row]) => row >= 0)
    const overlay = this.cleared(this.overlay, !rings.length && !this.trail)
    const accent = accentColor()
    overlay.lineWidth = 2
    for (const [row, radius] of rings) {
      const [x, y] = this.screen(row)
      overlay.strokeStyle = accent
      overlay.beginPath()
      overlay.arc(x, y, radius, 0, 7)
      overlay.stroke()
    }
    if (this.trail?.length > 1) {
      overlay.beginPath()
      for (const [x, y] of this.trail) overlay.lineTo(x, y)
      overlay.closePath()
      overlay.fillStyle = accent
      overlay.globalAlpha = 0.12
      overlay.fill()
      overlay.globalAlpha = 1
      overlay.strokeStyle = accent
      overlay.lineWidth = 1.5
      overlay.stroke()
    }
  }

  screen(row) {
    return this.camera.toScreen(this.map.points[2 * row], this.map.points[2 * row + 1])
  }

  // Rows in view; null where there are too many for pictures.
  visible(most) {
    const { camera } = this
    const [x0, y1] = camera.toMap(0, 0)
    const [x1, y0] = camera.toMap(camera.width, camera.height)
    const rows = []
    this.grid.within(x0, y0, x1, y1, (row) => rows.push(row) > most)
    return rows.length > most ? null : rows
  }

  // Pictures over points, as many as fit: first those that stand for their clusters.
  drawPictures() {
    const off = !this.store.pictures || (this.map.n > FEW && this.camera.zoom < 2)
    const rows = off ? null : this.visible(FEW)
    const none = !rows || (rows.length > 500 && this.camera.zoom < 2)
    this.cleared(this.thumbs, none)
    this.shownPictures = 0
    if (none) return
    rows.sort((a, b) => this.rank[a] - this.rank[b])
    const side = rows.length < 60 ? 56 : rows.length < 300 ? 44 : 34
    const placed = new Map() // cell of the screen -> the picture in it
    const { selection, highlight } = this.store
    for (const row of rows) {
      const [x, y] = this.screen(row)
      if (!hasRoom(placed, x, y, side)) continue
      placed.set(cellOf(x, y, side), [x, y])
      const chosen = selection.has(row)
      const quiet = (selection.size && !chosen) || (highlight && !highlight(row))
      this.drawPicture(row, x, y, side, quiet, chosen)
    }
  }

  drawPicture(row, x, y, side, quiet, chosen) {
    const { thumbs } = this
    const waits = this.moving && !this.map.pictures.drawn.has(row)
    const bitmap = waits ? null : this.map.pictures.bitmap(row, () => this.request(PICTURES))
    if (!bitmap) return
    const scale = side / Math.max(bitmap.width, bitmap.height)
    const [w, h] = [bitmap.width * scale, bitmap.height * scale]
    thumbs.globalAlpha = quiet ? 0.25 : 1
    thumbs.fillStyle = chosen ? accentColor() : css(this.rgb.subarray(3 * row, 3 * row + 3))
    thumbs.fillRect(x - w / 2 - 2, y - h / 2 - 2, w + 4, h + 4)
    thumbs.drawImage(bitmap, x - w / 2, y - h / 2, w, h)
    thumbs.globalAlpha = 1
    this.shownPictures++
  }

  async showCard() {
    const { hover: row, color } = this.store
    const card = $('card')
    if (row < 0) {
      card.hidden = true
      return
    }
    const [image, path, value] = card.children
    const address = await this.map.pictures.address(row).catch(() => '')
    if (this.store.hover !== row) return
    image.hidden = !address
    if (address) image.src = address
    path.textContent = shown(this.map.path(row))
    const found = this.map.value(color, row)
    value.textContent = found === null ? '' : shown(typeof found === 'number' ? found.toPrecision(3) : found)
    card.hidden = false
    const [x, y] = this.screen(row)
    const [width, height] = [card.offsetWidth, card.offsetHeight]
    const left = x + 18 + width > this.camera.width ? x - 18 - width : x + 18
    const top = Math.min(Math.max(8, y - height / 2), this.camera.height - height - 8)
    card.style.transform = `translate(${Math.max(8, left)}px, ${Math.max(8, top)}px)`
  }

  // Move smoothly to a view {x, y, zoom}.
  go(target) {
    const from = { x: this.camera.x, y: this.camera.y, zoom: this.camera.zoom }
    const time = matchMedia('(prefers-reduced-motion: reduce)').matches ? 0 : 260
    const started = performance.now()
    const step = () => {
      const t = time ? Math.min(1, (performance.now() - started) / time) : 1
      const eased = 1 - (1 - t) ** 3
      this.camera.x = from.x + (target.x - from.x) * eased
      this.camera.y = from.y + (target.y - from.y) * eased
      this.camera.zoom = from.zoom * (target.zoom / from.zoom) ** eased
      this.move()
      this.flight = t < 1 ? requestAnimationFrame(step) : null
    }
    cancelAnimationFrame(this.flight)
    step()
  }

  fit() {
    this.go({ x: 0, y: 0, zoom: 1 })
  }

  goTo(row, zoom = Math.max(this.camera.zoom, 4)) {
    this.go({ x: this.map.points[2 * row], y: this.map.points[2 * row + 1], zoom })
  }

  goToRows(rows) {
    let [x0, y0, x1, y1] = [Infinity, Infinity, -Infinity, -Infinity]
    for (const row of rows) {
      const [x, y] = [this.map.points[2 * row], this.map.points[2 * row + 1]]
      ;[x0, x1, y0, y1] = [Math.min(x0, x), Math.max(x1, x), Math.min(y0, y), Math.max(y1, y)]
    }
    if (x0 <= x1) this.go(this.camera.around(x0, y0, x1, y1))
  }
}

const accentColor = () => getComputedStyle(document.documentElement).getPropertyValue('--accent')

const cellOf = (x, y, side, du = 0, dv = 0) => `${Math.floor(x / side) + du},${Math.floor(y / side) + dv}`

function hasRoom(placed, x, y, side) {
  for (let du = -1; du <= 1; du++) {
    for (let dv = -1; dv <= 1; dv++) {
      const other = placed.get(cellOf(x, y, side, du, dv))
      if (other && Math.abs(other[0] - x) < side + 5 && Math.abs(other[1] - y) < side + 5) return false
    }
  }
  return true
}
