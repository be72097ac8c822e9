import assert from 'node:assert/strict';
import test from 'node:test';
import { canonical, digest, NotCanonical, parseCanonical, parseStrict } from '../src/canonical.js';

const bytes = (text) => Buffer.from(text);

test('the digests of the specification', () => {
  assert.equal(
    digest('plan', bytes('{"steps":[],"v":1}')),
    'sha256:654a8a61b65c487c76b23fe951b7613365b60f564f964890e7f1a6a583688ea0',
  );
  assert.equal(
    digest('step-intent', bytes('{"steps":[],"v":1}')),
    'sha256:e15d9d15ced1711e034ac6dcb18f51765848ebb70e22cec4eadf0d92885116b1',
  );
  assert.equal(
    digest('plan', bytes('{"args":{"ratio":0.1,"weight_kg":98.7},"v":1}')),
    'sha256:aac1f459bcb6b826422e36e35e10d9661db898d454fb8615144450d50c8db160',
  );
  const args = { A: 5, a: 3, '\u20ac': 4, '\u{1f600}': 1, '\ufb33': 2 };
  assert.equal(
    digest('plan', canonical({ v: 1, args })),
    'sha256:8460a03d1b9be38891ab9bfb8d3b942a736e83f9d23e6827af0b632774d737ca',
  );
});

test('any spelling of a number is brought to the one that is hashed', () => {
  const sent = '{"a":98.70,"b":1e2,"c":-0,"d":0.0000001,"e":1e21,"f":1.0,"g":-0.0}';
  assert.equal(canonical(parseStrict(bytes(sent))).toString(), '{"a":98.7,"b":100,"c":0,"d":1e-7,"e":1e+21,"f":1,"g":0}');
});

for (const sent of ['9007199254740992', '-9007199254740993', '1e20', '1e400', '100000000000000000000', 'NaN', '01', '.5', '+1']) {
  test(`the number ${sent} is refused`, () => {
    assert.throws(() => parseStrict(bytes(`{"n":${sent}}`)), NotCanonical);
  });
}

for (const [what, sent] of Object.entries({
  'a duplicate key': '{"a":1,"a":2}',
  'a duplicate key in two spellings': '{"a":1,"\\u0061":2}',
  'a lone surrogate': '{"a":"\\ud800"}',
  'U+0000': '{"a":"\\u0000"}',
  'a byte-order mark': '\ufeff{}',
  'text after the document': '{} {}',
  'a trailing comma': '{"a":[1,]}',
  'a raw control character': '{"a":"\u0001"}',
  'an array at the top': '[]',
  'an unknown escape': '{"a":"\\x41"}',
  'nothing at all': '',
})) {
  test(`${what} is refused`, () => {
    assert.throws(() => parseStrict(bytes(sent)), NotCanonical);
  });
}

test('bad UTF-8 is refused', () => {
  assert.throws(() => parseStrict(Buffer.from([0x7b, 0x22, 0xff, 0x22, 0x3a, 0x31, 0x7d])), NotCanonical);
});

test('depth is counted from the top object at zero', () => {
  const nested = (depth) => bytes(`${'{"a":'.repeat(depth)}1${'}'.repeat(depth)}`);
  parseCanonical(nested(32));
  assert.throws(() => parseCanonical(nested(33)), NotCanonical);
  assert.throws(() => parseCanonical(nested(100_000)), NotCanonical);
});

test('a key named __proto__ is a key like any other', () => {
  const text = '{"__proto__":{"polluted":true}}';
  assert.equal(canonical(parseCanonical(bytes(text))).toString(), text);
  assert.equal({}.polluted, undefined);
});

test('bytes that only resemble canonical ones are refused', () => {
  for (const sent of ['{"b":1,"a":2}', '{"a":1 }', '{"a":1}\n', '{"a":1.0}', '{"a":"\\u0041"}', '{"a":"\\/"}']) {
    assert.throws(() => parseCanonical(bytes(sent)), NotCanonical, sent);
  }
});

test('values outside the profile have no canonical bytes', () => {
  for (const value of [2 ** 53, NaN, Infinity, undefined, 1n, '\ud800', () => 1]) {
    assert.throws(() => canonical({ value }), NotCanonical);
  }
});
