// Elements without innerHTML: names of files and classes enter the page as text only.

export const $ = (id) => document.getElementById(id)

// h('button.main', {onclick, 'aria-label': …}, child, …): null, undefined and false are left out.
export function h(kind, attributes = {}, ...children) {
  const [tag, ...classes] = kind.split('.')
  const element = document.createElement(tag)
  if (classes.length) element.className = classes.join(' ')
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue
    if (name.startsWith('on')) element.addEventListener(name.slice(2), value)
    else element.setAttribute(name, value === true ? '' : value)
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false))
  return element
}

export function button(label, onclick, kind = 'button.button', attributes = {}) {
  return h(kind, { type: 'button', onclick, ...attributes }, label)
}

export function swatch(color) {
  const element = h('span.swatch', { 'aria-hidden': 'true' })
  element.style.background = color
  return element
}

// Control characters, line breaks and marks that reorder text, as escapes: a name stays on its line.
const UNSAFE = /[\p{Cc}\p{Cf}\p{Cs}\p{Zl}\p{Zp}]/gu
export function shown(name) {
  return String(name).replace(UNSAFE, (c) => {
    if (c === '\u200c' || c === '\u200d') return c // needed to spell Persian, Hindi and some emoji
    if (c === '\n') return '\\n'
    if (c === '\t') return '\\t'
    if (c === '\r') return '\\r'
    const code = c.codePointAt(0)
    return code < 256 ? `\\x${code.toString(16).padStart(2, '0')}` : `\\u${code.toString(16).padStart(4, '0')}`
  })
}

export const thousands = (n) => n.toLocaleString('en-US')
export const plural = (n, one, many = `${one}s`) => `${thousands(n)} ${n === 1 ? one : many}`

let timer
export function note(text) {
  $('note').textContent = text
  clearTimeout(timer)
  timer = setTimeout(() => ($('note').textContent = ''), 2500)
}

export function download(name, text) {
  const link = h('a', { href: URL.createObjectURL(new Blob([text], { type: 'text/plain' })), download: name })
  link.click()
  setTimeout(() => URL.revokeObjectURL(link.href), 1000)
}

export async function copy(text) {
  try {
    await navigator.clipboard.writeText(text)
  } catch { // no permission, or no clipboard on a page from the disk
    const area = h('textarea')
    area.value = text
    document.body.append(area)
    area.select()
    document.execCommand('copy')
    area.remove()
  }
}
