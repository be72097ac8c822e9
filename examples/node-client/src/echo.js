/**
 * The echo: what the executor returns must be our own document plus exactly the fields that only a server can know.
 * An agent that commits without this check commits whatever came back.
 */
import { canonical, digest, parseCanonical } from './canonical.js';

const PLAN_FIELDS = ['plan_id', 'nonce', 'tenant', 'environment', 'request_id', 'actor', 'taint'];
const PLAN_FIELDS_MAYBE = ['rationale_digest', 'policy_snapshot'];
const STEP_FIELDS = ['tool_digest', 'pre'];
const STEP_FIELDS_MAYBE = ['preview_digest'];

/** The returned bytes are not our request; do not commit. */
export class EchoMismatch extends Error {
  constructor(message) {
    super(message);
    this.name = 'EchoMismatch';
  }
}

/**
 * Check the returned bytes and return the parsed plan. Numbers are compared by value (1.0 is 1).
 *
 * draft: our document. expected: what we know of the server's fields, such as {tenant, environment, request_id}.
 * Throws NotCanonical or EchoMismatch.
 */
export function verifyEcho(draft, bytes, planDigest, expected = {}) {
  if (digest('plan', bytes) !== planDigest) throw new EchoMismatch('the digest is not that of the returned bytes');
  const plan = parseCanonical(bytes);
  for (const [name, value] of Object.entries(expected)) {
    if (plan[name] !== value) throw new EchoMismatch(`${name} is not ours`);
  }
  const rest = without(plan, PLAN_FIELDS, PLAN_FIELDS_MAYBE, '');
  if (!Array.isArray(rest.steps)) throw new EchoMismatch('the plan has no steps');
  rest.steps = rest.steps.map((step, index) => withoutStepFields(step, `/steps/${index}`));
  if (!canonical(rest).equals(canonical(draft))) throw new EchoMismatch('the plan is not the document we sent');
  return plan;
}

function withoutStepFields(step, pointer) {
  const rest = without(step, STEP_FIELDS, STEP_FIELDS_MAYBE, pointer);
  const undo = rest.undo;
  if (typeof undo === 'object' && undo !== null) rest.undo = without(undo, ['tool_digest'], [], `${pointer}/undo`);
  return rest;
}

function without(object, required, optional, pointer) {
  const rest = Object.assign(Object.create(null), object);
  for (const name of required) {
    if (!(name in rest)) throw new EchoMismatch(`${pointer}/${name} is missing`);
    delete rest[name];
  }
  for (const name of optional) delete rest[name];
  return rest;
}
