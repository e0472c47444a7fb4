// Follow a shape with the published TypeScript client and print its rows, as one JSON line each time they change.
import { Shape, ShapeStream } from '@electric-sql/client'

const [url, table] = process.argv.slice(2)
const stream = new ShapeStream({ url: `${url}/v1/shape`, params: { table } })
const shape = new Shape(stream)

function print() {
  const rows = [...shape.currentRows].sort((a, b) => Number(a.id) - Number(b.id))
  console.log(JSON.stringify({ handle: stream.shapeHandle, rows }, (_, v) => (typeof v === 'bigint' ? Number(v) : v)))
}

shape.subscribe(print)
process.on('SIGTERM', () => process.exit(0))
