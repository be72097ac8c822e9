/**
 * Canonical bytes and digests of hashed documents: RFC 8785 in Counterseal's strict profile, DSSE's PAE, SHA-256.
 *
 * Written from the specification, not translated: a second implementation is worth something only if it is one.
 * JSON.parse is not used: it keeps the last duplicate key, reads 2^53+1 as 2^53 and 1e400 as Infinity.
 */
import { createHash } from 'node:crypto';

export const MAX_BYTES = 1 << 20;
export const MAX_DEPTH = 32;

/** The bytes or the value have no canonical form; `pointer` is the JSON pointer where known. */
export class NotCanonical extends Error {
  constructor(message, pointer = '') {
    super(pointer ? `${pointer}: ${message}` : message);
    this.name = 'NotCanonical';
    this.pointer = pointer;
  }
}

/** DSSE's pre-authentication encoding of a body as a document of `kind`. Lengths are in bytes. */
export function pae(kind, body) {
  if (!/^[a-z]+(-[a-z]+)*$/.test(kind)) throw new NotCanonical(`${JSON.stringify(kind)} is not a document kind`);
  const type = `application/vnd.counterseal.${kind}.v1+json`;
  return Buffer.concat([Buffer.from(`DSSEv1 ${type.length} ${type} ${body.length} `), body]);
}

/** `sha256:<hex>` of a body as a document of `kind`; the body is hashed as it is, never parsed. */
export function digest(kind, body) {
  return `sha256:${createHash('sha256').update(pae(kind, body)).digest('hex')}`;
}

/** Canonical bytes of an object. Throws NotCanonical for values outside the profile. */
export function canonical(document) {
  if (!isObject(document)) throw new NotCanonical('the document is not a JSON object');
  const body = Buffer.from(write(document, '', 0));
  if (body.length > MAX_BYTES) throw new NotCanonical(`${body.length} bytes; at most ${MAX_BYTES} are allowed`);
  return body;
}

/** Parse one JSON object in any spelling. Throws NotCanonical for whatever has no canonical form. */
export function parseStrict(bytes) {
  if (bytes.length > MAX_BYTES) throw new NotCanonical(`${bytes.length} bytes; at most ${MAX_BYTES} are allowed`);
  let text;
  try {
    text = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(bytes);
  } catch {
    throw new NotCanonical('not UTF-8');
  }
  return new Parser(text).document();
}

/** Parse bytes that claim to be canonical: accepted only if writing them again gives the same bytes. */
export function parseCanonical(bytes) {
  const document = parseStrict(bytes);
  if (!canonical(document).equals(bytes)) throw new NotCanonical('the bytes differ from their canonical form');
  return document;
}

function isObject(value) {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

function token(key) {
  return key.replaceAll('~', '~0').replaceAll('/', '~1');
}

function checkText(text, pointer) {
  if (text.includes('\0')) throw new NotCanonical('a string holds U+0000', pointer);
  if (!text.isWellFormed()) throw new NotCanonical('a string holds a lone surrogate', pointer);
  return text;
}

function checkNumber(value, pointer) {
  if (!Number.isFinite(value)) throw new NotCanonical('a number is not finite', pointer);
  // From 1e21 on ECMAScript prints an exponent, so the rule for integers does not apply there.
  if (Number.isInteger(value) && Math.abs(value) < 1e21 && !Number.isSafeInteger(value)) {
    throw new NotCanonical('an integer lies beyond 2^53-1; send as a string', pointer);
  }
  return value === 0 ? 0 : value; // -0 is 0
}

function write(value, pointer, depth) {
  if (depth > MAX_DEPTH) throw new NotCanonical(`nested deeper than ${MAX_DEPTH}`, pointer);
  if (value === null || typeof value === 'boolean') return String(value);
  if (typeof value === 'string') return JSON.stringify(checkText(value, pointer)); // its escapes are those of RFC 8785
  if (typeof value === 'number') return String(checkNumber(value, pointer));
  if (Array.isArray(value)) {
    return `[${value.map((item, index) => write(item, `${pointer}/${index}`, depth + 1)).join(',')}]`;
  }
  if (!isObject(value)) throw new NotCanonical(`a ${typeof value} is not a JSON value`, pointer);
  const keys = Object.keys(value).sort(byCodeUnit);
  const members = keys.map((key) => {
    checkText(key, pointer);
    return `${JSON.stringify(key)}:${write(value[key], `${pointer}/${token(key)}`, depth + 1)}`;
  });
  return `{${members.join(',')}}`;
}

/** RFC 8785 section 3.2.3: by UTF-16 code units, which is what JavaScript's `<` compares. */
function byCodeUnit(a, b) {
  return a < b ? -1 : a > b ? 1 : 0;
}

const SPACE = /[ \t\n\r]*/y;
const NUMBER = /-?(?:0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?/y;
const PLAIN = /[^"\\\u0000-\u001f]*/y; // eslint-disable-line no-control-regex
const ESCAPES = { '"': '"', '\\': '\\', '/': '/', b: '\b', f: '\f', n: '\n', r: '\r', t: '\t' };
const WORDS = { true: true, false: false, null: null };

/** A recursive-descent parser of RFC 8259 that refuses what the profile refuses. */
class Parser {
  constructor(text) {
    this.text = text;
    this.at = 0;
  }

  document() {
    this.space();
    if (this.text[this.at] !== '{') throw new NotCanonical('the document is not a JSON object');
    const value = this.value('', 0);
    this.space();
    if (this.at !== this.text.length) this.fail();
    return value;
  }

  value(pointer, depth) {
    if (depth > MAX_DEPTH) throw new NotCanonical(`nested deeper than ${MAX_DEPTH}`, pointer);
    const first = this.text[this.at];
    if (first === '{') return this.object(pointer, depth);
    if (first === '[') return this.array(pointer, depth);
    if (first === '"') return this.string(pointer);
    for (const [word, value] of Object.entries(WORDS)) {
      if (this.text.startsWith(word, this.at)) {
        this.at += word.length;
        return value;
      }
    }
    return this.number(pointer);
  }

  object(pointer, depth) {
    const result = Object.create(null); // without a prototype, `__proto__` is a key like any other
    this.at += 1;
    if (this.closes('}')) return result;
    do {
      this.space();
      if (this.text[this.at] !== '"') this.fail();
      const key = this.string(pointer);
      if (key in result) throw new NotCanonical(`the key ${JSON.stringify(key)} occurs twice`, pointer);
      this.space();
      this.expect(':');
      this.space();
      result[key] = this.value(`${pointer}/${token(key)}`, depth + 1);
    } while (this.continues('}'));
    return result;
  }

  array(pointer, depth) {
    const result = [];
    this.at += 1;
    if (this.closes(']')) return result;
    do {
      this.space();
      result.push(this.value(`${pointer}/${result.length}`, depth + 1));
    } while (this.continues(']'));
    return result;
  }

  string(pointer) {
    let result = '';
    this.at += 1;
    for (;;) {
      result += this.match(PLAIN)[0];
      const next = this.text[this.at];
      if (next === '"') break;
      if (next !== '\\') this.fail();
      result += this.escape();
    }
    this.at += 1;
    return checkText(result, pointer);
  }

  escape() {
    const letter = this.text[this.at + 1];
    if (letter === 'u') {
      const hex = this.text.slice(this.at + 2, this.at + 6);
      if (!/^[0-9a-fA-F]{4}$/.test(hex)) this.fail();
      this.at += 6;
      return String.fromCharCode(Number.parseInt(hex, 16));
    }
    if (letter === undefined || !Object.hasOwn(ESCAPES, letter)) this.fail();
    this.at += 2;
    return ESCAPES[letter];
  }

  number(pointer) {
    const match = this.match(NUMBER);
    if (match === null) this.fail();
    const [literal, fraction, exponent] = match;
    // An integer literal never passes through a double unseen: 2^53+1 would come out as 2^53.
    if (fraction === undefined && exponent === undefined && !isSafeLiteral(literal)) {
      throw new NotCanonical(`the number ${literal.slice(0, 40)} lies beyond 2^53-1; send as a string`, pointer);
    }
    return checkNumber(Number(literal), pointer);
  }

  space() {
    this.match(SPACE);
  }

  closes(end) {
    this.space();
    if (this.text[this.at] !== end) return false;
    this.at += 1;
    return true;
  }

  continues(end) {
    if (this.closes(end)) return false;
    this.expect(',');
    return true;
  }

  expect(character) {
    if (this.text[this.at] !== character) this.fail();
    this.at += 1;
  }

  match(pattern) {
    pattern.lastIndex = this.at;
    const match = pattern.exec(this.text);
    if (match !== null) this.at = pattern.lastIndex;
    return match;
  }

  fail() {
    throw new NotCanonical(`not JSON at character ${this.at}`);
  }
}

function isSafeLiteral(literal) {
  return literal.length <= 17 && Number.isSafeInteger(Number(literal));
}
