// Published clients as one process drives them: commands come as JSON lines, what a client holds goes out as JSON lines.
import { createInterface } from 'node:readline'
import { FetchError, Shape, ShapeStream } from '@electric-sql/client'
import { PGlite } from '@electric-sql/pglite'
import { electricSync } from '@electric-sql/pglite-sync'
import { createCollection, createLiveQueryCollection, eq } from '@tanstack/db'
import { electricCollectionOptions } from '@tanstack/electric-db-collection'

const running = new Map()

function tell(client, told) {
  const plain = (_, value) => (typeof value === 'bigint' ? Number(value) : value)
  console.log(JSON.stringify({ client, ...told }, plain))
}

function sorted(rows) {
  return rows.map(({ id, title, done }) => ({ id: Number(id), title, done })).sort((a, b) => a.id - b.id)
}

// The client itself: long polls, or events, from the beginning or from where another one stopped.
function startStream({ client, url, params, liveSse, offset, handle, secret }) {
  const aborter = new AbortController()
  let messages = 0
  const stream = new ShapeStream({
    url,
    params,
    liveSse,
    offset,
    handle,
    signal: aborter.signal,
    onError: (error) => {
      tell(client, { error: error.message, status: error instanceof FetchError ? error.status : null })
      return secret ? { params: { ...params, secret } } : undefined
    },
  })
  stream.subscribe((batch) => {
    messages += batch.filter((message) => 'key' in message).length
  })
  const shape = new Shape(stream)
  const state = () => ({ rows: sorted([...shape.currentRows]), handle: stream.shapeHandle, offset: stream.lastOffset })
  shape.subscribe(() => tell(client, { ...state(), messages }))
  running.set(client, { stop: () => (aborter.abort(), tell(client, { stopped: true, ...state(), messages })) })
}

// TanStack DB: the whole shape, or on demand, where each query loads what it needs.
async function startCollection({ client, url, params, syncMode, done, subsetMethod }) {
  const collection = createCollection(
    electricCollectionOptions({
      id: client,
      getKey: (row) => Number(row.id),
      syncMode,
      shapeOptions: { url, params, subsetMethod },
    })
  )
  const shown =
    done === undefined
      ? collection
      : createLiveQueryCollection({
          startSync: true,
          query: (q) => q.from({ row: collection }).where(({ row }) => eq(row.done, done)),
        })
  shown.subscribeChanges(() => tell(client, { rows: sorted(shown.toArray) }), { includeInitialState: true })
  running.set(client, { stop: () => collection.cleanup() })
}

// PGlite: a database in this process that a shape is written into.
async function startDatabase({ client, url, params }) {
  const pg = await PGlite.create({ extensions: { electric: electricSync() } })
  await pg.exec('CREATE TABLE issues (id int PRIMARY KEY, title text, done bool)')
  const sync = await pg.electric.syncShapeToTable({
    shape: { url, params },
    shapeKey: null,
    table: 'issues',
    primaryKey: ['id'],
  })
  let last = ''
  const timer = setInterval(async () => {
    const { rows } = await pg.query('SELECT id, title, done FROM issues')
    const text = JSON.stringify(sorted(rows))
    if (text !== last) tell(client, { rows: sorted(rows) })
    last = text
  }, 50)
  running.set(client, { stop: () => (clearInterval(timer), sync.unsubscribe()) })
}

const starts = { stream: startStream, collection: startCollection, database: startDatabase }

createInterface({ input: process.stdin }).on('line', async (line) => {
  const command = JSON.parse(line)
  try {
    if (command.stop) running.get(command.stop).stop()
    else await starts[command.start](command)
  } catch (error) {
    tell(command.client ?? command.stop, { failed: String(error) })
  }
})
process.on('SIGTERM', () => process.exit(0))
process.on('unhandledRejection', (error) => tell('process', { failed: String(error) }))
