// Mouse, pen and fingers on the map: pan, zoom, pinch, hover, open and lasso.

import { $ } from './dom.js'

export class Pointer {
  constructor(view, store, actions) {
    Object.assign(this, { view, store, actions, down: new Map(), mode: null })
    const canvas = (this.canvas = $('points'))
    canvas.addEventListener('pointerdown', (event) => this.start(event))
    canvas.addEventListener('pointermove', (event) => this.follow(event))
    canvas.addEventListener('pointerup', (event) => this.finish(event))
    canvas.addEventListener('pointercancel', (event) => this.finish(event))
    canvas.addEventListener('pointerleave', () => store.set({ hover: -1 }))
    canvas.addEventListener('dblclick', (event) => this.zoom(event, 2))
    canvas.addEventListener('wheel', (event) => this.wheel(event), { passive: false })
    store.on('lasso', () => canvas.classList.toggle('lasso', store.lasso))
  }

  at(event) {
    const box = this.canvas.getBoundingClientRect()
    return [event.clientX - box.left, event.clientY - box.top]
  }

  start(event) {
    if (event.button > 0) return
    this.canvas.setPointerCapture(event.pointerId)
    this.down.set(event.pointerId, this.at(event))
    this.begun = this.at(event)
    this.far = false
    const lasso = this.store.lasso || event.shiftKey || event.altKey
    this.mode = this.down.size > 1 ? 'pinch' : lasso ? 'lasso' : 'pan'
    if (this.mode === 'lasso') this.view.trail = [this.begun]
  }

  follow(event) {
    const place = this.at(event)
    const before = this.down.get(event.pointerId)
    if (!before) return this.hover(place)
    this.far ||= Math.hypot(place[0] - this.begun[0], place[1] - this.begun[1]) > 4
    if (this.mode === 'pan' && this.far) {
      this.canvas.classList.add('grabbing')
      this.view.camera.panBy(place[0] - before[0], place[1] - before[1])
      this.view.move()
    } else if (this.mode === 'pinch') {
      this.pinch(event.pointerId, before, place)
    } else if (this.mode === 'lasso') {
      this.view.trail.push(place)
      this.view.request(0)
    }
    if (this.mode !== 'pan' || this.far) this.down.set(event.pointerId, place)
  }

  pinch(id, before, place) {
    const other = [...this.down].find(([one]) => one !== id)?.[1]
    if (!other) return
    const distance = ([x, y]) => Math.max(1, Math.hypot(x - other[0], y - other[1]))
    const { camera } = this.view
    camera.zoomAt((place[0] + other[0]) / 2, (place[1] + other[1]) / 2, distance(place) / distance(before))
    camera.panBy((place[0] - before[0]) / 2, (place[1] - before[1]) / 2)
    this.view.move()
  }

  finish(event) {
    if (!this.down.delete(event.pointerId)) return
    this.canvas.classList.remove('grabbing')
    const place = this.at(event)
    if (this.mode === 'lasso') {
      const polygon = this.view.trail.map(([x, y]) => this.view.camera.toMap(x, y))
      this.view.trail = null
      if (polygon.length > 2 && this.far) {
        this.actions.choose(this.view.grid.inside(polygon), event.altKey ? 'remove' : event.shiftKey ? 'add' : 'replace')
      } else this.click(place)
    } else if (this.mode === 'pan' && !this.far && event.type === 'pointerup') this.click(place)
    if (!this.down.size) this.mode = null
    this.view.request()
  }

  click(place) {
    const row = this.rowAt(place)
    if (row >= 0) this.actions.open(row)
    else if (this.store.highlight || this.store.selection.size) this.actions.choose([], 'replace')
  }

  rowAt([x, y]) {
    const { camera, grid } = this.view
    const radius = this.view.shownPictures ? 24 : 9
    return grid.nearest(...camera.toMap(x, y), radius / camera.unit)
  }

  hover(place) {
    const row = this.rowAt(place)
    this.canvas.classList.toggle('pointing', row >= 0 && !this.store.lasso)
    this.store.set({ hover: row })
  }

  wheel(event) {
    event.preventDefault()
    const lines = event.deltaMode === 1 ? 20 : 1
    this.zoom(event, Math.exp(-event.deltaY * lines * (event.ctrlKey ? 0.01 : 0.0016)))
  }

  zoom(event, factor) {
    this.view.camera.zoomAt(...this.at(event), factor)
    this.view.move()
  }
}
