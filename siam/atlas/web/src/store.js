// What the page shows, and who is told when it changes.

export class Store {
  constructor(values) {
    Object.assign(this, values)
    this.listeners = []
  }

  // Call `listener` after any of the values named in `keys`, separated by spaces, has changed.
  on(keys, listener) {
    this.listeners.push([new Set(keys.split(' ')), listener])
  }

  set(values) {
    const changed = Object.keys(values).filter((key) => this[key] !== values[key])
    Object.assign(this, values)
    for (const [keys, listener] of this.listeners) if (changed.some((key) => keys.has(key))) listener()
  }
}
