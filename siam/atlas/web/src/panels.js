// The panels beside the map: an image with its neighbors, clusters, duplicates, outliers and the selection.

import { css, ofClass } from './colors.js'
import { $, button, copy, download, h, note, plural, shown, swatch, thousands } from './dom.js'

const MOST = 200 // tiles in a panel

export class Panels {
  constructor(app) {
    this.app = app
    this.kinds = [
      ['image', 'Image', () => this.image(), 'open results labels'],
      ['clusters', 'Clusters', () => this.clusters(), 'theme'],
      ['duplicates', 'Duplicates', () => this.duplicates(), ''],
      ['outliers', 'Outliers', () => this.outliers(), ''],
      ['selection', 'Selection', () => this.selection(), 'selection labels'],
    ]
    if (app.labels) this.kinds.push(['labels', 'Labels', () => app.labels.panel(), 'labels suggestions theme'])
    for (const [id, title] of this.kinds) {
      $('tabs').append(h('button', {
        type: 'button', role: 'tab', id: `tab-${id}`, 'aria-controls': 'panel', onclick: () => app.store.set({ tab: id }),
      }, title))
    }
    $('tabs').addEventListener('keydown', (event) => this.step(event))
    app.store.on('tab', () => this.show())
    for (const [id, , , keys] of this.kinds) {
      if (keys) app.store.on(keys, () => app.store.tab === id && this.render())
    }
    this.show()
  }

  step(event) {
    const move = { ArrowRight: 1, ArrowLeft: -1 }[event.key]
    if (!move) return
    event.stopPropagation()
    const ids = this.kinds.map(([id]) => id)
    const next = ids[(ids.indexOf(this.app.store.tab) + move + ids.length) % ids.length]
    this.app.store.set({ tab: next })
    $(`tab-${next}`).focus()
  }

  show() {
    for (const [id] of this.kinds) {
      const tab = $(`tab-${id}`)
      const current = id === this.app.store.tab
      tab.setAttribute('aria-selected', current)
      tab.tabIndex = current ? 0 : -1
      if (!current) continue
      $('panel').setAttribute('aria-labelledby', tab.id)
      tab.scrollIntoView({ block: 'nearest', inline: 'nearest' })
    }
    this.render()
    $('panel').scrollTop = 0
  }

  // Render once, however many values have changed.
  render() {
    if (this.waiting) return
    this.waiting = true
    queueMicrotask(() => {
      this.waiting = false
      this.draw()
    })
  }

  draw() {
    const kind = this.kinds.find(([id]) => id === this.app.store.tab)
    const content = kind[2]()
    $('panel').replaceChildren(...(Array.isArray(content) ? content : [content]).filter(Boolean))
  }

  tile(row, caption = '') {
    const { map, actions } = this.app
    const image = h('img', { alt: '', loading: 'lazy' })
    const path = shown(map.path(row))
    const tile = h('button.tile', {
      type: 'button', title: path, 'data-row': row, 'aria-label': caption ? `${path}, ${caption}` : path,
      onclick: () => actions.open(row),
      onpointerenter: () => actions.point([row]), onpointerleave: () => actions.point([]),
    }, image, caption && h('span', { 'aria-hidden': 'true' }, caption))
    map.pictures.address(row).then((address) => address && (image.src = address), () => {})
    return tile
  }

  tiles(rows, caption = () => '') {
    return h('div.tiles', {}, rows.slice(0, MOST).map((row, i) => this.tile(row, caption(row, i))))
  }

  image() {
    const { map, store, actions } = this.app
    const results = store.results
    if (store.open < 0 && !results) {
      return h('div.empty', {}, h('p', {}, 'Click a point to see its image and the images most like it.'),
        this.app.live && h('p', {}, 'Or drop an image file onto the map to find others like it.'))
    }
    if (store.open < 0) return this.found(results)
    const row = store.open
    const neighbors = h('div.tiles')
    map.details(row).then((details) => neighbors.append(...details.neighbors.map(
      (one) => this.tile(one.row, one.similarity.toFixed(2)))), (error) => neighbors.append(error.message))
    const group = map.duplicateGroup.get(row)
    return [
      this.picture(row),
      h('p.path', {}, shown(map.path(row))),
      this.facts(row),
      h('div.row', {}, button('Copy path', () => copy(map.path(row)).then(() => note('Path copied'))),
        button('Show on map', () => this.app.view.goTo(row)),
        button('Select', () => actions.choose([row], 'add'))),
      this.app.labels?.chips([row]),
      group === undefined ? null : h('h3', {}, 'Duplicates'),
      group === undefined ? null : this.tiles(map.facts.duplicates[group].filter((other) => other !== row)),
      h('h3', {}, 'Most similar'),
      neighbors,
    ]
  }

  picture(row) {
    const { map, live } = this.app
    const image = h('img.picture', { alt: shown(map.path(row)) })
    if (live) image.src = `image/${row}`
    const fallBack = () => map.pictures.address(row).then((address) => {
      image.classList.add('little')
      if (address) image.src = address
    }, () => {})
    if (live) image.addEventListener('error', fallBack, { once: true })
    else fallBack()
    return image
  }

  facts(row) {
    const { map } = this.app
    const list = h('dl')
    for (const column of map.columns.values()) {
      const value = map.value(column.name, row)
      if (value === null) continue
      list.append(h('dt', {}, shown(column.title)), h('dd', {}, shown(column.kind === 'number' ? Number(value.toPrecision(4)) : value)))
    }
    return list
  }

  found({ name, rows, similarity }) {
    return [
      h('h2', {}, 'Like the image dropped'),
      h('p.muted', {}, shown(name)),
      h('div.row', {}, button('Select these', () => this.app.actions.choose(rows, 'replace'))),
      h('h3', {}, 'Most similar'),
      this.tiles(rows, (_, i) => similarity[i].toFixed(2)),
    ]
  }

  clusters() {
    const { map, view, actions } = this.app
    const { clusters } = map.facts
    if (!clusters.length) return h('p.empty', {}, 'No clusters were found in this set.')
    const inside = clusters.reduce((sum, { size }) => sum + size, 0)
    const column = map.columns.get('cluster')
    return [
      h('p.muted', {}, `${plural(clusters.length, 'cluster')}; ${thousands(map.n - inside)} images are in none.`),
      ...clusters.slice(0, MOST).map(({ cluster, size, representatives }) => {
        const code = column ? column.values.indexOf(String(cluster)) : -1
        const rows = () => actions.rowsOf((row) => column.data[row] === code)
        return h('section.group', {},
          h('div.line', {}, swatch(css(ofClass(code))),
            button(`Cluster ${cluster}`, () => view.goToRows(representatives), 'button.link'),
            h('span.muted', {}, thousands(size)),
            button('Select', () => actions.choose(rows(), 'replace'), 'button.button', { 'aria-label': `Select cluster ${cluster}` })),
          this.tiles(representatives.slice(0, 8)))
      }),
    ]
  }

  duplicates() {
    const { map, actions } = this.app
    const { duplicates } = map.facts
    if (!duplicates.length) return h('p.empty', {}, 'No duplicates were found in this set.')
    const extra = duplicates.flatMap((rows) => rows.slice(1))
    return [
      h('p.muted', {}, `${plural(duplicates.length, 'group')}; ${plural(extra.length, 'image')} could go if one of each group stays.`),
      h('div.row', {}, button('Select all but the first of each', () => actions.choose(extra, 'replace'))),
      ...duplicates.slice(0, MOST).map((rows, i) => h('section.group', {},
        h('div.line', {}, `Group ${i + 1}`, h('span.muted', {}, thousands(rows.length)),
          button('Select', () => actions.choose(rows, 'replace'), 'button.button', { 'aria-label': `Select group ${i + 1}` })),
        this.tiles(rows.slice(0, 12)))),
      duplicates.length > MOST ? h('p.muted.small', {}, `The first ${MOST} groups are shown.`) : null,
    ]
  }

  outliers() {
    const { map, actions } = this.app
    const rows = map.facts.outliers
    if (!rows.length) return h('p.empty', {}, 'This map has no outlier scores.')
    return [
      h('p.muted', {}, 'Farthest from their nearest neighbors first.'),
      h('div.row', {}, ...[20, 50, 100].filter((count) => count <= rows.length).map(
        (count) => button(`Select first ${count}`, () => actions.choose(rows.slice(0, count), 'replace')))),
      h('h3', {}, `First ${rows.length}`),
      this.tiles(rows, (row) => map.columns.get('outlier').data[row].toFixed(2)),
    ]
  }

  selection() {
    const { map, store, actions, view } = this.app
    const rows = [...store.selection].sort((a, b) => a - b)
    if (!rows.length) {
      return h('div.empty', {}, h('p', {}, 'Nothing is selected.'),
        h('p', {}, 'Draw a lasso with the tool above the map, or hold Shift and drag. Alt takes away from the selection.'))
    }
    const list = () => rows.map((row) => map.path(row)).join('\n')
    return [
      h('h2', {}, `${plural(rows.length, 'image')} selected`),
      h('div.row', {}, button('Copy paths', () => copy(list()).then(() => note(`${plural(rows.length, 'path')} copied`))),
        button('Save list', () => download('selection.txt', list() + '\n')),
        button('Show on map', () => view.goToRows(rows)), button('Clear', () => actions.choose([], 'replace'))),
      this.app.labels?.form(rows),
      h('textarea.paths', { readonly: true, 'aria-label': 'Paths of the selected images', spellcheck: 'false' },
        rows.slice(0, 2000).map((row) => shown(map.path(row))).join('\n')),
      h('h3', {}, rows.length > MOST ? `The first ${MOST}` : 'Images'),
      this.tiles(rows),
    ]
  }
}
