// A grid over the map that finds points near a place, within a rectangle and within a lasso.

export class Grid {
  constructor(points) {
    const n = points.length / 2
    this.points = points
    this.side = Math.max(8, Math.min(1024, Math.round(Math.sqrt(n / 4))))
    this.start = new Uint32Array(this.side * this.side + 1)
    const cells = new Uint32Array(n)
    for (let i = 0; i < n; i++) {
      cells[i] = this.cell(points[2 * i]) + this.side * this.cell(points[2 * i + 1])
      this.start[cells[i] + 1]++
    }
    for (let c = 0; c < this.side * this.side; c++) this.start[c + 1] += this.start[c]
    const next = this.start.slice()
    this.rows = new Uint32Array(n)
    for (let i = 0; i < n; i++) this.rows[next[cells[i]]++] = i
  }

  cell(value) {
    return Math.max(0, Math.min(this.side - 1, Math.floor(((value + 1) / 2) * this.side)))
  }

  // Call visit(row, x, y) for the points within a rectangle, until it returns true.
  within(x0, y0, x1, y1, visit) {
    const [left, right] = [this.cell(x0), this.cell(x1)]
    for (let v = this.cell(y0); v <= this.cell(y1); v++) {
      const end = this.start[v * this.side + right + 1]
      for (let at = this.start[v * this.side + left]; at < end; at++) {
        const row = this.rows[at]
        const [x, y] = [this.points[2 * row], this.points[2 * row + 1]]
        if (x >= x0 && x <= x1 && y >= y0 && y <= y1 && visit(row, x, y)) return
      }
    }
  }

  nearest(x, y, radius) {
    let [best, distance] = [-1, radius * radius]
    this.within(x - radius, y - radius, x + radius, y + radius, (row, px, py) => {
      const d = (px - x) ** 2 + (py - y) ** 2
      if (d <= distance) [best, distance] = [row, d]
    })
    return best
  }

  // The rows within a polygon [[x, y], …].
  inside(polygon) {
    const xs = polygon.map(([x]) => x)
    const ys = polygon.map(([, y]) => y)
    const rows = []
    this.within(Math.min(...xs), Math.min(...ys), Math.max(...xs), Math.max(...ys), (row, x, y) => {
      if (contains(polygon, x, y)) rows.push(row)
    })
    return rows
  }
}

function contains(polygon, x, y) {
  let odd = false
  for (let i = 0, j = polygon.length - 1; i < polygon.length; j = i++) {
    const [[xi, yi], [xj, yj]] = [polygon[i], polygon[j]]
    if (yi > y !== yj > y && x < ((xj - xi) * (y - yi)) / (yj - yi) + xi) odd = !odd
  }
  return odd
}
