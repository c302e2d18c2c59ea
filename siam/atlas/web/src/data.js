// Read the map out of the page: typed arrays in base64, columns of numbers and classes, and details in chunks.
//
// A chunk holds thumbnails and neighbors of a few thousand images that are close on the map. The first ones are
// inside the page; those of large sets lie in files beside it, which load as scripts, because a page from the
// disk may not fetch.

const NONE = 0xffffffff

function bytesOf(text) {
  if (Uint8Array.fromBase64) return Uint8Array.fromBase64(text)
  const binary = atob(text)
  const bytes = new Uint8Array(binary.length)
  for (let i = 0; i < binary.length; i++) bytes[i] = binary.charCodeAt(i)
  return bytes
}

async function inflate(bytes) {
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream('gzip'))
  return new Uint8Array(await new Response(stream).arrayBuffer())
}

async function blob(name) {
  const element = document.getElementById(`data-${name}`)
  const bytes = bytesOf(element.textContent)
  element.remove() // or the text stays in memory too
  return element.dataset.codec === 'gzip' ? inflate(bytes) : bytes
}

export async function readMap() {
  const facts = JSON.parse(document.getElementById('facts').textContent)
  const map = new MapData(facts)
  await map.load()
  return map
}

class MapData {
  constructor(facts) {
    this.facts = facts
    this.n = facts.n
    this.columns = new Map()
    this.chunks = new Map() // number -> promise of a chunk
    this.waiting = new Map() // number -> resolve, of the files on their way
    this.pictures = new Pictures(this)
    window.siamChunk = (number, text) => this.waiting.get(number)?.(bytesOf(text))
  }

  async load() {
    this.points = new Float32Array((await blob('points')).buffer) // x, y, x, y, …
    const order = new Uint32Array((await blob('order')).buffer)
    this.place = new Uint32Array(this.n) // row -> position among the chunks
    for (let i = 0; i < this.n; i++) this.place[order[i]] = i
    this.order = order
    for (const column of this.facts.columns) {
      const bytes = await blob(column.blob)
      this.columns.set(column.name, { ...column, data: column.kind === 'number' ? new Float32Array(bytes.buffer) : new Int32Array(bytes.buffer) })
    }
    this.duplicateGroup = new Map()
    this.facts.duplicates.forEach((rows, group) => rows.forEach((row) => this.duplicateGroup.set(row, group)))
    this.paths = blob('paths').then((bytes) => JSON.parse(new TextDecoder().decode(bytes)))
    this.paths.then((paths) => (this.names = paths))
  }

  path(row) {
    return this.names ? this.names[row] : ''
  }

  value(name, row) {
    const column = this.columns.get(name)
    if (!column) return null
    const value = column.data[row]
    if (column.kind === 'number') return Number.isNaN(value) ? null : value
    return value < 0 ? null : column.values[value]
  }

  chunk(number) {
    if (!this.chunks.has(number)) {
      if (this.chunks.size > 48) this.chunks.delete(this.oldChunk(number))
      this.chunks.set(number, this.openChunk(number))
    }
    return this.chunks.get(number)
  }

  oldChunk(wanted) {
    for (const number of this.chunks.keys()) if (number !== wanted && number >= this.facts.inside) return number
    return null
  }

  async openChunk(number) {
    const { inside, size } = this.facts
    const bytes = number < inside ? await blob(`chunk-${number}`) : await this.loadFile(number)
    return new Chunk(bytes, number * size)
  }

  loadFile(number) {
    return new Promise((resolve, reject) => {
      const script = document.createElement('script')
      script.src = this.facts.file.replace('#', String(number).padStart(4, '0'))
      script.onerror = () => {
        this.chunks.delete(number)
        reject(new Error(`${script.src} is missing: keep it beside the page`))
      }
      script.onload = () => script.remove()
      this.waiting.set(number, (bytes) => {
        this.waiting.delete(number)
        resolve(bytes)
      })
      document.head.append(script)
    })
  }

  async details(row) {
    const chunk = await this.chunk(Math.floor(this.place[row] / this.facts.size))
    return chunk.details(this.place[row])
  }
}

class Chunk {
  // uint32 n, k; n + 1 offsets of JPEG files; n x k neighbors; then uint8 n x k similarities, and the files.
  constructor(bytes, first) {
    const [n, k] = new Uint32Array(bytes.buffer, 0, 2)
    Object.assign(this, { n, k, first, bytes })
    this.offsets = new Uint32Array(bytes.buffer, 8, n + 1)
    this.neighbors = new Uint32Array(bytes.buffer, 8 + 4 * (n + 1), n * k)
    this.similarity = new Uint8Array(bytes.buffer, 8 + 4 * (n + 1 + n * k), n * k)
    this.files = 8 + 4 * (n + 1 + n * k) + n * k
  }

  details(place) {
    const i = place - this.first
    const [start, end] = this.offsets.subarray(i, i + 2)
    const rows = Array.from(this.neighbors.subarray(i * this.k, (i + 1) * this.k)).filter((row) => row !== NONE)
    return {
      jpeg: end > start ? this.bytes.subarray(this.files + start, this.files + end) : null,
      neighbors: rows.map((row, j) => ({ row, similarity: this.similarity[i * this.k + j] / 255 })),
    }
  }
}

// Thumbnails as images to draw, and as addresses for <img>; the least recently used are closed.
class Pictures {
  constructor(map) {
    this.map = map
    this.drawn = new Map()
    this.addresses = new Map()
  }

  // The bitmap of a row's thumbnail; null while it loads (`ready` is called later), undefined if there is none.
  bitmap(row, ready) {
    if (this.drawn.has(row)) {
      const found = this.drawn.get(row)
      this.drawn.delete(row)
      this.drawn.set(row, found)
      return found
    }
    this.drawn.set(row, null)
    this.decode(row).then((bitmap) => {
      this.drawn.set(row, bitmap)
      ready()
    })
    for (const [old, bitmap] of this.drawn) {
      if (this.drawn.size <= 3000) break
      bitmap?.close()
      this.drawn.delete(old)
    }
    return null
  }

  async decode(row) {
    try {
      const { jpeg } = await this.map.details(row)
      return jpeg ? await createImageBitmap(new Blob([jpeg], { type: 'image/jpeg' })) : undefined
    } catch {
      return undefined
    }
  }

  async address(row) {
    if (!this.addresses.has(row)) {
      const { jpeg } = await this.map.details(row)
      this.addresses.set(row, jpeg ? URL.createObjectURL(new Blob([jpeg], { type: 'image/jpeg' })) : '')
      if (this.addresses.size > 4000) {
        const [old, address] = this.addresses.entries().next().value
        URL.revokeObjectURL(address)
        this.addresses.delete(old)
      }
    }
    return this.addresses.get(row)
  }
}
