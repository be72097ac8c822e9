// Runs in an environment of its own: reads an exported log with `@sigstore/verify` and nothing of ours.
//
// usage: node foreign_verifier.cjs MODULES DIR VKEY INDEX[,INDEX..]; prints {tool: "accepted" or why not}.
//
// Signature, checkpoint and inclusion are the foreign code's to judge. It reads no tiles, so the audit path that it
// judges is put together here, from the tiles as C2SP tlog-tiles lays them out and RFC 6962 section 2.1.1 walks them.
'use strict';
const { createHash, createPublicKey } = require('node:crypto');
const { readFileSync } = require('node:fs');
const { createRequire } = require('node:module');
const { join } = require('node:path');

const [modules, directory, vkey, indexes] = process.argv.slice(2);
const foreign = createRequire(join(modules, 'x'));
const ED25519_SPKI = Buffer.from('302a300506032b6570032100', 'hex'); // RFC 8410: what comes before the 32 bytes

function trustedLog() {
  const [name, hint, material] = [vkey.split('+', 1)[0], vkey.split('+')[1], vkey.split('+').slice(2).join('+')];
  const key = Buffer.from(material, 'base64').subarray(1);
  const publicKey = createPublicKey({ key: Buffer.concat([ED25519_SPKI, key]), format: 'der', type: 'spki' });
  return { logID: Buffer.from(hint, 'hex'), baseURL: name, publicKey };
}

function tile(level, index, size) {
  const groups = [String(index % 1000).padStart(3, '0')];
  for (let rest = Math.floor(index / 1000); rest > 0; rest = Math.floor(rest / 1000)) {
    groups.unshift('x' + String(rest % 1000).padStart(3, '0'));
  }
  const count = level === 'entries' ? size : Math.floor(size / 256 ** level);
  const width = Math.min(256, count - index * 256);
  return readFileSync(join(directory, 'tile', String(level), ...groups) + (width < 256 ? `.p/${width}` : ''));
}

function entry(index, size) {
  const bundle = tile('entries', Math.floor(index / 256), size);
  let at = 0;
  for (let skipped = 0; skipped < index % 256; skipped += 1) at += 2 + bundle.readUInt16BE(at);
  return bundle.subarray(at + 2, at + 2 + bundle.readUInt16BE(at));
}

const node = (left, right) => createHash('sha256').update(Buffer.from([1])).update(left).update(right).digest();

// The hash of the 2^height leaves from index << height on, out of the tile that holds its lowest stored ancestors.
function whole(height, index, size) {
  const level = Math.floor(height / 8);
  const width = 2 ** (height % 8);
  const first = index * width;
  const data = tile(level, Math.floor(first / 256), size);
  let row = [];
  for (let at = first % 256; row.length < width; at += 1) row.push(data.subarray(at * 32, at * 32 + 32));
  while (row.length > 1) row = row.flatMap((hash, at) => (at % 2 ? [node(row[at - 1], hash)] : []));
  return row[0];
}

function subtree(from, to, size) {
  const count = to - from;
  const height = Math.log2(count);
  if (Number.isInteger(height) && from % count === 0) return whole(height, from / count, size);
  const middle = from + 2 ** Math.floor(Math.log2(count - 1));
  return node(subtree(from, middle, size), subtree(middle, to, size));
}

function path(index, from, to, size) {
  if (to - from === 1) return [];
  const middle = from + 2 ** Math.floor(Math.log2(to - from - 1));
  if (index < middle) return [...path(index, from, middle, size), subtree(middle, to, size)];
  return [...path(index, middle, to, size), subtree(from, middle, size)];
}

function sigstoreVerify() {
  const { verifyCheckpoint } = foreign('@sigstore/verify/dist/tlog/checkpoint.js');
  const { verifyMerkleInclusion } = foreign('@sigstore/verify/dist/tlog/merkle.js');
  const envelope = readFileSync(join(directory, 'checkpoint'), 'utf8');
  const checkpoint = verifyCheckpoint({ inclusionProof: { checkpoint: { envelope } } }, [trustedLog()]);
  const size = Number(checkpoint.logSize);
  for (const index of indexes.split(',').map(Number)) {
    const inclusionProof = { logIndex: String(index), hashes: path(index, 0, size, size) };
    verifyMerkleInclusion({ inclusionProof, canonicalizedBody: entry(index, size) }, checkpoint);
  }
}

let verdict = 'accepted';
try {
  sigstoreVerify();
} catch (error) {
  verdict = `${error.name}: ${error.message}`;
}
process.stdout.write(JSON.stringify({ sigstore_verify: verdict }));
