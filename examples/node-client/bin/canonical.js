#!/usr/bin/env node
/**
 * For comparing implementations. One case a line on standard input, one answer a line on standard output:
 *   {"op": "accept" | "canonicalize", "kind": "plan", "hex": "..."}  ->  {"digest", "hex"} or {"refused": "why"}
 */
import { createInterface } from 'node:readline';
import { canonical, digest, NotCanonical, parseCanonical, parseStrict } from '../src/canonical.js';

for await (const line of createInterface({ input: process.stdin })) {
  const { op, kind, hex } = JSON.parse(line);
  const bytes = Buffer.from(hex, 'hex');
  try {
    const body = op === 'accept' ? (parseCanonical(bytes), bytes) : canonical(parseStrict(bytes));
    process.stdout.write(`${JSON.stringify({ digest: digest(kind, body), hex: body.toString('hex') })}\n`);
  } catch (error) {
    if (!(error instanceof NotCanonical)) throw error;
    process.stdout.write(`${JSON.stringify({ refused: error.message })}\n`);
  }
}
