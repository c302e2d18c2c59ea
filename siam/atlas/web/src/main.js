/*! siam explore: the page of a map of images. MIT License. No other library is part of this script. */

import { readMap } from './data.js'
import { $, note } from './dom.js'
import { wireControls } from './controls.js'
import { listen } from './keyboard.js'
import { Labels } from './labels.js'
import { Panels } from './panels.js'
import { Pointer } from './pointer.js'
import { Store } from './store.js'
import { View } from './view.js'

const remembered = (key) => {
  try {
    return localStorage.getItem(key)
  } catch { // storage is switched off
    return null
  }
}

function setTheme(theme) {
  document.documentElement.dataset.theme = theme
  return theme
}

const preferred = () => remembered('siam-theme') ?? (matchMedia('(prefers-color-scheme: dark)').matches ? 'dark' : 'light')

function actionsOf(app) {
  const { map, store } = app
  const step = (move) => app.panels && store.open >= 0 && map.details(app.from ?? store.open).then(({ neighbors }) => {
    const rows = [app.from ?? store.open, ...neighbors.map(({ row }) => row)]
    const next = rows[(rows.indexOf(store.open) + move + rows.length) % rows.length]
    const from = rows[0]
    actions.open(next)
    app.from = from
  })
  const actions = {
    open(row) {
      app.from = row
      store.set({ open: row, results: null, tab: 'image' })
    },
    step,
    point(rows) {
      app.view.rings = rows
      app.view.request(0)
    },
    choose(rows, how) {
      const selection = new Set(how === 'replace' ? [] : store.selection)
      for (const row of rows) how === 'remove' ? selection.delete(row) : selection.add(row)
      store.set({ selection, highlight: null, picked: null, ...(rows.length ? { tab: 'selection' } : {}) })
    },
    rowsOf(test) {
      const rows = []
      for (let row = 0; row < map.n; row++) if (test(row)) rows.push(row)
      return rows
    },
    // Rows whose path holds the text in any case; null for no text.
    find(text) {
      if (!text) return null
      const pattern = new RegExp(text.replace(/[.*+?^${}()|[\]\\]/g, '\\$&'), 'i')
      return actions.rowsOf((row) => pattern.test(map.path(row)))
    },
    toggle: (key) => store.set({ [key]: !store[key] }),
    switchTheme() {
      const theme = setTheme(store.theme === 'dark' ? 'light' : 'dark')
      try {
        localStorage.setItem('siam-theme', theme)
      } catch { /* storage is switched off */ }
      store.set({ theme })
    },
    nextColor() {
      const names = [...map.columns.keys()]
      store.set({ color: names[(names.indexOf(store.color) + 1) % names.length], highlight: null, picked: null })
    },
    clear() {
      $('query').value = ''
      $('hits').textContent = ''
      store.set({ selection: new Set(), highlight: null, picked: null, open: -1, results: null, lasso: false })
    },
    quickLabel(i) {
      const name = app.labels.names[i]
      if (name === undefined) return
      const next = app.labels.uncertain(2).find((row) => row !== store.open)
      app.labels.attempt(app.labels.label([store.open], name), () => next !== undefined && actions.open(next))
    },
    async searchBy(file) {
      note('Searching…')
      app.labels.attempt(app.labels.search(file), ({ rows, similarity }) => {
        note('')
        store.set({ open: -1, results: { name: file.name ?? '', rows, similarity }, tab: 'image' })
        actions.point(rows.slice(0, 20))
        app.view.goToRows(rows.slice(0, 20))
      })
    },
  }
  return actions
}

// What scripts may call as `siam`, in the console or from a test.
function scripting(app) {
  const { map, store, view, actions, labels } = app
  const open = {
    count: map.n,
    renderer: view.points.kind,
    path: (row) => map.path(row),
    value: (name, row) => map.value(name, row),
    columns: () => [...map.columns.keys()],
    details: (row) => map.details(row),
    find: (text) => actions.find(text),
    open: actions.open,
    select: (rows) => actions.choose(rows, 'replace'),
    selection: () => [...store.selection].sort((a, b) => a - b),
    color: (name) => store.set({ color: name, highlight: null, picked: null }),
    fit: () => view.fit(),
    goTo: (row, zoom) => view.goTo(row, zoom),
    // Where a row's point is in the window, in CSS pixels.
    position(row) {
      const box = view.canvas.getBoundingClientRect()
      const [x, y] = view.screen(row)
      return { x: x + box.left, y: y + box.top }
    },
    // What the last frame showed, how many were drawn so far, and whether the map has come to rest.
    drawn: () => ({
      points: view.drawn ?? 0, pictures: view.shownPictures ?? 0, frames: view.frames ?? 0,
      still: !(view.moving || view.frame || view.flight),
    }),
  }
  // Draw every point of a large map while it moves too, however slowly.
  open.drawAll = (all) => (view.whole = all)
  if (!labels) return open
  return {
    ...open,
    label: (rows, name) => labels.label(rows, name),
    labels: () => Object.fromEntries(labels.names.map((name, i) => [name, labels.counts[i]])),
    train: () => labels.suggest('probe'),
    propagate: () => labels.suggest('neighbors'),
    suggestions: () => labels.suggestions,
    uncertain: (most) => labels.uncertain(most),
    accept: (threshold) => labels.accept(threshold),
    save: () => labels.save(),
    search: (what, k) => labels.search(what, k),
  }
}

async function start() {
  const theme = setTheme(preferred())
  const map = await readMap()
  const first = ['cluster', 'label'].find((name) => map.columns.has(name)) ?? map.columns.keys().next().value
  const store = new Store({
    theme, color: first, open: -1, hover: -1, selection: new Set(), highlight: null, picked: null, lasso: false,
    pictures: true, tab: 'image', results: null, labels: null, suggestions: null, columns: null,
  })
  const app = { map, store, live: map.facts.live }
  app.actions = actionsOf(app)
  app.view = new View(map, store)
  new Pointer(app.view, store, app.actions)
  if (app.live) app.labels = new Labels(app)
  app.panels = new Panels(app)
  wireControls(app)
  listen(app)
  matchMedia('(prefers-color-scheme: dark)').addEventListener('change', () => {
    if (!remembered('siam-theme')) store.set({ theme: setTheme(preferred()) })
  })
  await Promise.all([map.paths, app.labels?.ready])
  window.siam = scripting(app)
  document.documentElement.dataset.ready = 'true'
}

start().catch((error) => {
  note(`This page cannot be shown: ${error.message}`)
  throw error
})
