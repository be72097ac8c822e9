/** A plan document of ours (the form that gets hashed) as a ProposePlanRequest, without changing what it says. */
import { canonical } from './canonical.js';

const LISTS = ['constraints', 'rejected_alternatives', 'data_sources', 'unverified'];
const VALUES = ['objective', 'model', 'confidence_ppm', 'confidence_method', 'deadline_seconds', 'supersedes'];
const TIMES = ['not_before_time', 'expire_time'];
const STEP_VALUES = ['id', 'tool', 'target', 'needs', 'timeout_seconds', 'on_fail'];

/**
 * draft: {v: 1, objective, steps: [{id, tool, target, args, ...}], ...}. Throws TypeError on a field that a request
 * cannot carry: it would be missing in the echo.
 * sealed: {rationale, user_request, intent}, which the ledger keeps sealed and the plan does not hold.
 */
export function proposeRequest(draft, idempotencyKey, sealed = {}) {
  const known = new Set(['v', 'steps', ...LISTS, ...VALUES, ...TIMES]);
  refuseUnknown(draft, known, '');
  const request = { idempotency_key: idempotencyKey, ...sealed, steps: draft.steps.map(step) };
  for (const name of [...LISTS, ...VALUES]) if (name in draft) request[name] = draft[name];
  for (const name of TIMES) if (name in draft) request[name] = timestamp(draft[name]);
  return request;
}

function step(value, index) {
  const pointer = `/steps/${index}`;
  refuseUnknown(value, new Set([...STEP_VALUES, 'args', 'retry', 'undo', 'post']), pointer);
  const request = { args_json: canonical(value.args) };
  for (const name of STEP_VALUES) if (name in value) request[name] = value[name];
  if ('retry' in value) {
    request.retry_max = value.retry.max;
    request.retry_backoff_seconds = value.retry.backoff_seconds;
  }
  if ('post' in value) {
    request.post = value.post.map((condition, at) => {
      refuseUnknown(condition, new Set(['kind', 'ref', 'value']), `${pointer}/post/${at}`);
      return { kind: condition.kind, ref: condition.ref, value_json: json(condition.value) };
    });
  }
  if ('undo' in value) {
    refuseUnknown(value.undo, new Set(['tool', 'args', 'if_exists']), `${pointer}/undo`);
    const { tool, args, if_exists: ifExists = false } = value.undo;
    request.undo = { tool, args_json: canonical(args), if_exists: ifExists };
  }
  return request;
}

function refuseUnknown(object, known, pointer) {
  const unknown = Object.keys(object).filter((key) => !known.has(key));
  if (unknown.length > 0) throw new TypeError(`${pointer}/${unknown[0]}: a proposal cannot carry this field`);
}

/** The canonical bytes of any JSON value, by way of an object: only those have canonical bytes. */
function json(value) {
  return canonical({ '': value }).subarray('{"":'.length, -1);
}

/** RFC 3339 text with Z as google.protobuf.Timestamp. */
function timestamp(text) {
  const milliseconds = Date.parse(text);
  if (Number.isNaN(milliseconds)) throw new TypeError(`${text} is not a time`);
  return { seconds: Math.floor(milliseconds / 1000), nanos: (((milliseconds % 1000) + 1000) % 1000) * 1_000_000 };
}
