// Which part of the map is seen: a center and a zoom; 1 shows all of it.

const LOWEST = 0.5
const HIGHEST = 20000

export class Camera {
  constructor() {
    Object.assign(this, { x: 0, y: 0, zoom: 1, width: 1, height: 1 })
  }

  // Pixels per unit of the map, whose points lie within -1 and 1.
  get unit() {
    return (this.zoom * Math.min(this.width, this.height) * 0.92) / 2
  }

  toScreen(x, y) {
    return [(x - this.x) * this.unit + this.width / 2, (this.y - y) * this.unit + this.height / 2]
  }

  toMap(sx, sy) {
    return [(sx - this.width / 2) / this.unit + this.x, this.y - (sy - this.height / 2) / this.unit]
  }

  panBy(dx, dy) {
    this.x = clamp(this.x - dx / this.unit, -1.5, 1.5)
    this.y = clamp(this.y + dy / this.unit, -1.5, 1.5)
  }

  zoomAt(sx, sy, factor) {
    const [x, y] = this.toMap(sx, sy)
    this.zoom = clamp(this.zoom * factor, LOWEST, HIGHEST)
    const [after, below] = this.toMap(sx, sy)
    this.x += x - after
    this.y += y - below
  }

  // The view that shows a rectangle of the map with a margin around it.
  around(x0, y0, x1, y1) {
    const unit = Math.min(this.width / Math.max(x1 - x0, 1e-6), this.height / Math.max(y1 - y0, 1e-6)) * 0.8
    const zoom = (unit * 2) / (Math.min(this.width, this.height) * 0.92)
    return { x: (x0 + x1) / 2, y: (y0 + y1) / 2, zoom: clamp(zoom, LOWEST, 60) }
  }
}

const clamp = (value, low, high) => Math.min(high, Math.max(low, value))
