import assert from 'node:assert/strict';
import test from 'node:test';
import grpc from '@grpc/grpc-js';
import { CallFailed } from '../src/index.js';

// google.rpc.Status{code: 3, message: "no", details: [Any{ErrorInfo{reason, domain, metadata{next_action: "NONE"}}}]},
// written by the protobuf runtime of another language.
const DETAILS =
  '080312026e6f1a5c0a28747970652e676f6f676c65617069732e636f6d2f676f6f676c652e7270632e4572726f72496e666f12300a0c554e' +
  '4b4e4f574e5f544f4f4c120b636f756e7465727365616c1a130a0b6e6578745f616374696f6e12044e4f4e45';

function failed(bytes) {
  const metadata = new grpc.Metadata();
  if (bytes !== undefined) metadata.set('grpc-status-details-bin', bytes);
  return new CallFailed('ProposePlan', { code: 3, details: 'no', metadata });
}

test('the stable reason of a refusal is read from its details', () => {
  const error = failed(Buffer.from(DETAILS, 'hex'));
  assert.equal(error.reason, 'UNKNOWN_TOOL');
  assert.deepEqual({ ...error.metadata }, { next_action: 'NONE' });
  assert.match(error.message, /UNKNOWN_TOOL: no/);
});

test('a failure without details, or with junk, is still a failure', () => {
  assert.equal(failed(undefined).reason, '');
  assert.equal(failed(Buffer.from('ffff', 'hex')).reason, '');
});
