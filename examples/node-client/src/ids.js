import { randomBytes } from 'node:crypto';

/** A UUIDv7 (RFC 9562 section 5.7): 48 bits of milliseconds, then 74 random bits. */
export function newId(now = Date.now(), random = randomBytes) {
  const bytes = Buffer.alloc(16);
  bytes.writeUIntBE(now, 0, 6);
  random(10).copy(bytes, 6);
  bytes[6] = (bytes[6] & 0x0f) | 0x70;
  bytes[8] = (bytes[8] & 0x3f) | 0x80;
  const hex = bytes.toString('hex');
  return [hex.slice(0, 8), hex.slice(8, 12), hex.slice(12, 16), hex.slice(16, 20), hex.slice(20)].join('-');
}
