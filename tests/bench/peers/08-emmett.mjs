// Emmett's event store on SQLite: one event appended to one of 64 streams, one call after the other; a stream of 100
// loaded. Compare with store_append/1 and store_load_100 of our benchmarks, whose commits are synced (FULL); Emmett's
// settings are those it comes with.
import {mkdtempSync, rmSync} from 'node:fs';
import {tmpdir} from 'node:os';
import {join} from 'node:path';
import {bench} from './harness.mjs';

// Its driver is compiled where npm finds no ready one for this machine, which may fail.
const emmett = await import('@event-driven-io/emmett-sqlite').catch(error => {
  console.error(`emmett: not measured, ${error.message.split('\n')[0]}`);
  process.exit(0);
});
const folder = mkdtempSync(join(tmpdir(), 'emmett-'));
const store = emmett.getSQLiteEventStore({fileName: join(folder, 'events.db'), schema: {autoMigration: 'CreateOrUpdate'}});
const event = {type: 'benchmarked', data: {text: 'x'.repeat(256)}};

// Now and then it cannot commit ("SQL statements in progress"), though nobody else is there: tried again, and counted.
let repeated = 0;
async function append(stream, events) {
  for (;;) {
    try {
      return await store.appendToStream(stream, events);
    } catch (error) {
      if (error.code !== 'SQLITE_BUSY' || ++repeated > 100_000) throw error;
    }
  }
}

let next = 0;
await bench('emmett append, one writer', async n => {
  for (let i = 0; i < n; i++) await append(`stream-${next++ % 64}`, [event]);
}, {iters: 200});

for (let s = 0; s < 100; s++) await append(`loaded-${s}`, Array.from({length: 100}, () => event));
await bench('emmett load, stream of 100', async n => {
  for (let i = 0; i < n; i++) await store.readStream(`loaded-${next++ % 100}`);
}, {iters: 200});
if (repeated > 0) console.error(`emmett: ${repeated} appends were tried again`);
rmSync(folder, {recursive: true});
process.exit(0);
