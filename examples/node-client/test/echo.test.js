import assert from 'node:assert/strict';
import test from 'node:test';
import { canonical, digest, EchoMismatch, proposeRequest, verifyEcho } from '../src/index.js';

const DRAFT = {
  v: 1,
  objective: 'Refund order 7',
  steps: [
    {
      id: 's1',
      tool: 'shop.refund@1.0.0',
      target: 'shop',
      args: { order: '7', ratio: 1.0 },
      undo: { tool: 'shop.unrefund@1.0.0', args: { order: '7' } },
    },
  ],
};
const OURS = { tenant: 'acme', environment: 'prod', request_id: 'r-1' };

function echoed(change = (plan) => plan) {
  const plan = structuredClone(DRAFT);
  Object.assign(plan, OURS, { plan_id: 'p', nonce: 'n', actor: { subject: 'ana', chain: [] }, taint: false });
  Object.assign(plan.steps[0], { tool_digest: 'sha256:aa', pre: [] });
  plan.steps[0].undo.tool_digest = 'sha256:bb';
  const body = canonical(change(plan) ?? plan);
  return [body, digest('plan', body)];
}

test('our document plus the server fields is our echo', () => {
  assert.equal(verifyEcho(DRAFT, ...echoed(), OURS).plan_id, 'p');
});

test('numbers are compared by value', () => {
  const draft = structuredClone(DRAFT);
  draft.steps[0].args.ratio = JSON.parse('1.00e0');
  verifyEcho(draft, ...echoed(), OURS);
});

const CHANGES = {
  'a changed argument': (plan) => void (plan.steps[0].args.order = '8'),
  'an added argument': (plan) => void (plan.steps[0].args.extra = true),
  'a removed argument': (plan) => void delete plan.steps[0].args.ratio,
  'another tool': (plan) => void (plan.steps[0].tool = 'shop.delete@1.0.0'),
  'another target': (plan) => void (plan.steps[0].target = 'bank'),
  'a further step': (plan) => void plan.steps.push(structuredClone(plan.steps[0])),
  'a dropped step': (plan) => void (plan.steps = []),
  'a dropped undo': (plan) => void delete plan.steps[0].undo,
  'an added field': (plan) => void (plan.deadline_seconds = 5),
  'a missing nonce': (plan) => void delete plan.nonce,
  'a missing tool digest': (plan) => void delete plan.steps[0].tool_digest,
  'another tenant': (plan) => void (plan.tenant = 'evil'),
  'another request': (plan) => void (plan.request_id = 'r-2'),
};
for (const [what, change] of Object.entries(CHANGES)) {
  test(`${what} is no echo`, () => {
    assert.throws(() => verifyEcho(DRAFT, ...echoed(change), OURS), EchoMismatch);
  });
}

test('a digest of other bytes is no echo', () => {
  const [body] = echoed();
  assert.throws(() => verifyEcho(DRAFT, body, digest('plan-draft', body), OURS), EchoMismatch);
});

test('a request carries the document and nothing that the plan would not hold', () => {
  const request = proposeRequest({ ...DRAFT, expire_time: '2030-01-01T00:00:00.250Z' }, 'key', { rationale: 'because' });
  assert.equal(request.steps[0].args_json.toString(), '{"order":"7","ratio":1}');
  assert.deepEqual(request.expire_time, { seconds: 1893456000, nanos: 250_000_000 });
  assert.equal(request.rationale, 'because');
  assert.throws(() => proposeRequest({ ...DRAFT, budgets: {} }, 'key'), TypeError);
});
