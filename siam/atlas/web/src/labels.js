// Labels, on a page from the server: name a selection, spread names to neighbors, train a probe, save labels.csv.

import { css, ofClass } from './colors.js'
import { button, h, note, plural, shown, swatch, thousands } from './dom.js'

const decode = (text, Kind) => new Kind(Uint8Array.from(atob(text), (c) => c.charCodeAt(0)).buffer)

async function call(name, body, type = 'application/json') {
  const reply = await fetch(`api/${name}`, {
    method: 'POST',
    headers: { 'Content-Type': type, 'X-Siam': '1' }, // which another site's page cannot send
    body: type === 'application/json' ? JSON.stringify(body) : body,
  })
  const answer = await reply.json()
  if (!reply.ok) throw new Error(answer.error)
  return answer
}

export class Labels {
  constructor(app) {
    Object.assign(this, { app, names: [], codes: new Int32Array(app.map.n).fill(-1), counts: [], suggestions: null })
    this.threshold = 0.9
    this.saved = ''
    this.ready = call('labels', {}).then((state) => this.take(state))
  }

  // Show the server's labels: they are the ones that count.
  take({ names, rows, codes }) {
    this.names = names
    this.codes = new Int32Array(this.app.map.n).fill(-1)
    this.counts = names.map(() => 0)
    rows.forEach((row, i) => {
      this.codes[row] = codes[i]
      this.counts[codes[i]]++
    })
    this.column('given', 'Your labels', names, this.codes)
    this.app.store.set({ labels: {}, columns: {} })
  }

  column(name, title, values, data, kind = 'class') {
    const { map } = this.app
    map.columns.set(name, { name, title, kind, values, data })
  }

  async label(rows, name) {
    this.take(await call('label', { rows: [...rows], name }))
    this.saved = ''
    return this.counts.reduce((a, b) => a + b, 0)
  }

  // Suggest a label for every image: by 'probe' or by 'neighbors'.
  async suggest(by) {
    const answer = await call('suggest', { by })
    this.suggestions = {
      by, names: answer.names, codes: decode(answer.codes, Int32Array), scores: decode(answer.scores, Float32Array),
      margins: decode(answer.margins, Float32Array), seconds: answer.seconds,
    }
    const { codes, scores, names } = this.suggestions
    this.column('suggested', 'Suggested label', names, codes)
    this.column('certainty', 'Certainty', [], scores, 'number')
    this.app.store.set({ suggestions: {}, columns: {} })
    return { by, labels: answer.labels, seconds: answer.seconds }
  }

  async accept(threshold = this.threshold) {
    const before = this.counts.reduce((a, b) => a + b, 0)
    this.take(await call('accept', { threshold }))
    this.saved = ''
    return this.counts.reduce((a, b) => a + b, 0) - before
  }

  async save() {
    const { file, rows } = await call('save', {})
    this.saved = `${plural(rows, 'label')} in ${file}`
    this.app.store.set({ labels: {} })
    return file
  }

  // Find images like one: a File, or {row} or {path} of one of the set.
  async search(what, k = 60) {
    if (what instanceof Blob) return call(`search?k=${k}`, what, 'application/octet-stream')
    return call(`search?k=${k}`, what)
  }

  // Rows without a label, least certain first.
  uncertain(most = 100) {
    if (!this.suggestions) return []
    const { margins } = this.suggestions
    const rows = []
    for (let row = 0; row < margins.length; row++) if (this.codes[row] < 0) rows.push(row)
    return rows.sort((a, b) => margins[a] - margins[b]).slice(0, most)
  }

  attempt(work, done) {
    work.then(done, (error) => note(error.message))
  }

  // Buttons that give the rows a label with one click.
  chips(rows) {
    if (!this.names.length) return null
    return h('div.chips', { role: 'group', 'aria-label': 'Label this image' }, this.names.map((name, i) => {
      const pressed = rows.every((row) => this.codes[row] === i)
      return h('button.chip', {
        type: 'button', 'aria-pressed': String(pressed), title: i < 9 ? `Key ${i + 1}` : null,
        onclick: () => this.attempt(this.label(rows, pressed ? null : name)),
      }, swatch(css(ofClass(i))), shown(name))
    }))
  }

  form(rows) {
    const field = h('input', { 'aria-label': 'Label of the selected images', placeholder: 'Name this selection', list: 'label-names', autocomplete: 'off', maxlength: 200, id: 'label-name' })
    const submit = (event) => {
      event.preventDefault()
      const name = field.value.trim()
      if (name) this.attempt(this.label(rows, name), () => note(`${plural(rows.length, 'image')} labeled`))
    }
    return h('form', { onsubmit: submit }, h('div.row', {}, field, h('button.button.main', { type: 'submit' }, 'Label'),
      button('Unlabel', () => this.attempt(this.label(rows, null)))),
    h('datalist', { id: 'label-names' }, this.names.map((name) => h('option', { value: name }))))
  }

  panel() {
    const total = this.counts.reduce((a, b) => a + b, 0)
    const intro = h('div.empty', {}, h('p', {}, 'No image has a label yet.'),
      h('p', {}, 'Select some images of one kind with the lasso and name them under Selection. A few of each kind are enough to train a probe.'))
    if (!total) return intro
    const several = this.counts.filter(Boolean).length > 1
    return [
      h('h2', {}, `${plural(total, 'label')} of ${thousands(this.app.map.n)} images`),
      h('div.chips', {}, this.names.map((name, i) => this.counts[i] > 0 && h('button.chip', {
        type: 'button', onclick: () => this.app.actions.choose(this.app.actions.rowsOf((row) => this.codes[row] === i), 'replace'),
      }, swatch(css(ofClass(i))), shown(name), h('span.muted', {}, thousands(this.counts[i]))))),
      h('div.row', {},
        button('Train probe', () => this.train('probe'), 'button.button.main', { disabled: !several, title: several ? null : 'Needs two labels' }),
        button('Spread to neighbors', () => this.train('neighbors'))),
      h('div.row', {}, button('Save labels.csv', () => this.attempt(this.save(), () => note('Saved')))),
      this.saved && h('p.muted.small.path', {}, shown(this.saved)),
      ...this.suggested(),
    ]
  }

  train(by) {
    note(by === 'probe' ? 'Training…' : 'Spreading…')
    this.attempt(this.suggest(by), () => {
      this.app.store.set({ color: 'suggested' })
      note('Suggestions for every image')
    })
  }

  suggested() {
    if (!this.suggestions) return []
    const { codes, scores, names, by } = this.suggestions
    const count = () => this.app.actions.rowsOf((row) => codes[row] >= 0 && this.codes[row] < 0 && scores[row] >= this.threshold).length
    const words = () => `Accept ${thousands(count())}`
    const accept = button(words(), () => this.attempt(this.accept(), (added) => note(`${plural(added, 'label')} accepted`)))
    const value = h('output', { for: 'threshold' }, `${Math.round(100 * this.threshold)} %`)
    const slider = h('input', {
      type: 'range', id: 'threshold', min: 50, max: 100, value: Math.round(100 * this.threshold), 'aria-label': 'Lowest score to accept',
      oninput: () => {
        this.threshold = slider.valueAsNumber / 100
        value.textContent = `${slider.value} %`
        accept.textContent = words()
      },
    })
    return [
      h('h3', {}, by === 'probe' ? 'Suggested by the probe' : 'Suggested by neighbors'),
      h('div.row', {}, h('span.muted', {}, 'Score at least'), slider, value),
      h('div.row', {}, accept),
      h('h3', {}, 'Least certain'),
      this.app.panels.tiles(this.uncertain(60), (row) => (codes[row] < 0 ? '' : shown(names[codes[row]]))),
    ]
  }
}
