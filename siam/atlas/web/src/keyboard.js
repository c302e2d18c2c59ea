// What the keys do, and the dialog that says so.

import { $, button, h } from './dom.js'

const KEYS = [
  ['Drag', 'move the map'], ['Wheel, + −', 'zoom'], ['Arrow keys', 'move the map'], ['0', 'show all'],
  ['Click, Enter', 'open an image'], ['N B', 'next and previous neighbor'], ['L, Shift drag', 'lasso; Alt drag takes away'],
  ['/', 'find in paths'], ['P', 'pictures on the map'], ['D', 'dark or light'], ['C', 'next color'],
  ['1 … 9', 'give the open image a label (from the server)'], ['Esc', 'clear'], ['?', 'this list'],
]

export function openHelp() {
  const dialog = $('keys')
  dialog.replaceChildren(
    h('h2', { id: 'keys-title' }, 'Keyboard and mouse'),
    h('dl', {}, KEYS.flatMap(([keys, does]) => [h('dt', {}, keys.includes(' drag') || keys.length > 12 ? keys : h('kbd', {}, keys)), h('dd', {}, does)])),
    button('Close', () => dialog.close(), 'button.button.main'))
  dialog.showModal()
}

export function listen(app) {
  const { view, store, actions } = app
  const { camera } = view
  const middle = () => [camera.width / 2, camera.height / 2]
  const pan = (dx, dy) => () => {
    camera.panBy(dx, dy)
    view.move()
  }
  const zoom = (factor) => () => {
    camera.zoomAt(...middle(), factor)
    view.move()
  }
  const onMap = {
    ArrowLeft: pan(60, 0), ArrowRight: pan(-60, 0), ArrowUp: pan(0, 60), ArrowDown: pan(0, -60),
    '+': zoom(1.3), '=': zoom(1.3), '-': zoom(1 / 1.3),
    Enter: () => {
      const row = view.grid.nearest(camera.x, camera.y, 0.25 * Math.max(camera.width, camera.height) / camera.unit)
      if (row >= 0) actions.open(row)
    },
  }
  const anywhere = {
    0: () => view.fit(), l: () => actions.toggle('lasso'), p: () => actions.toggle('pictures'), d: actions.switchTheme,
    c: actions.nextColor, n: () => actions.step(1), b: () => actions.step(-1), '?': openHelp,
    '/': () => $('query').focus(), Escape: actions.clear,
  }
  document.addEventListener('keydown', (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || $('keys').open) return
    if (/^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName)) {
      if (event.key === 'Escape') event.target.blur()
      return
    }
    const key = event.key.length === 1 ? event.key.toLowerCase() : event.key
    const digit = app.labels && store.open >= 0 && /^[1-9]$/.test(key)
    const act = (event.target === view.canvas && onMap[key]) || (digit ? () => actions.quickLabel(Number(key) - 1) : anywhere[key])
    if (!act) return
    event.preventDefault()
    act()
  })
}
