// Build dist/page.html, the whole page without its data: `make web`.
//
// Everything is inline, and the Content-Security-Policy names the style and the script by their hashes, so that
// the page runs nothing else, whatever the names of files and classes in its data look like.
import { createHash } from 'node:crypto'
import { mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { build } from 'esbuild'

const here = new URL('.', import.meta.url)
const read = (name) => readFileSync(new URL(name, here), 'utf8')
const sha256 = (text, encoding) => createHash('sha256').update(text).digest(encoding)

async function bundle(entry) {
  const { outputFiles } = await build({
    entryPoints: [new URL(entry, here).pathname],
    bundle: true,
    minify: true,
    write: false,
    format: 'iife',
    target: ['chrome100', 'firefox113', 'safari16.4'],
    charset: 'utf8',
    legalComments: 'inline',
  })
  return outputFiles[0].text.trim()
}

const script = await bundle('src/main.js')
const style = await bundle('src/page.css')
if (/<\/(script|style)/i.test(script + style)) throw new Error('the bundle would end its own element')

const policy = [
  "default-src 'none'",
  `script-src 'sha256-${sha256(script, 'base64')}' 'self' file:`, // files of thumbnails beside the page
  `style-src 'sha256-${sha256(style, 'base64')}'`,
  "img-src 'self' blob:",
  "connect-src 'self'",
  "base-uri 'none'",
  "form-action 'none'",
].join('; ')

const sources = readdirSync(new URL('src/', here)).sort().map((name) => `${name}\n${read(`src/${name}`)}`)
const page = read('src/page.html')
  .replace('{{policy}}', () => policy)
  .replace('{{sources}}', () => sha256(sources.join(''), 'hex'))
  .replace('{{style}}', () => style)
  .replace('{{script}}', () => script)
mkdirSync(new URL('dist/', here), { recursive: true })
writeFileSync(new URL('dist/page.html', here), page)
console.log(`dist/page.html: ${(page.length / 1024).toFixed(0)} kB`)
