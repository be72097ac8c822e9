#!/usr/bin/env node
/**
 * Propose the plan of a file, verify the echo, commit it, and print what happens, one JSON object a line.
 *   node bin/run.js --profile PROFILE.toml --user NAME --agent-version V PLAN.json
 *   node bin/run.js --profile PROFILE.toml --jwt-file FILE --agent-version V --wait 60 PLAN.json
 * --wait: seconds for which a plan that needs approval is waited for; without it the command ends with 6 at once.
 * Exit codes are the suite's: 0 ok, 1 internal, 2 usage, 3 refused, 5 denied, 6 approval pending, 7 in doubt,
 * 8 unavailable.
 */
import { readFileSync } from 'node:fs';
import { parseArgs } from 'node:util';
import { CallFailed, Client, developmentLogin, EchoMismatch, loadProfile, NotCanonical, parseStrict } from '../src/index.js';

const UNAVAILABLE = 14;
const DONE = { SUCCEEDED: 0 };
const DENIED = 'DECISION_OUTCOME_DENY';
const PENDING = 'DECISION_OUTCOME_REQUIRE_APPROVAL';

function say(event, fields) {
  process.stdout.write(`${JSON.stringify({ event, ...fields })}\n`);
}

async function run(client, draft, waitSeconds) {
  const proposed = await client.propose(draft);
  const { decision } = proposed.plan;
  say('proposed', {
    plan_id: proposed.plan.plan_id,
    plan_digest: proposed.digest,
    echo: proposed.document === null ? 'withheld' : 'verified',
    outcome: decision.outcome,
    reason_codes: decision.reason_codes,
  });
  if (decision.outcome === DENIED) return 5;
  if (decision.outcome === PENDING && waitSeconds === 0) return 6;
  const committed = await client.commitWhenApproved(proposed.plan.plan_id, proposed.digest, waitSeconds);
  say('committed', { state: committed.state });
  for await (const { seq, type, step_id: step, state } of client.watch(committed.plan_id)) say(type, { seq, step, state });
  const ended = await client.get(committed.plan_id);
  say('ended', { state: ended.state, steps: ended.steps.map(({ id, state }) => ({ id, state })) });
  if (ended.steps.some((step) => step.state === 'IN_DOUBT')) return 7;
  return DONE[ended.state] ?? 3;
}

function failure(error) {
  say('failed', { error: error.name, reason: error.reason ?? '', message: error.message });
  if (error instanceof CallFailed) {
    if (error.code === UNAVAILABLE) return 8;
    return error.reason === 'APPROVAL_REQUIRED' ? 6 : 3;
  }
  return error instanceof EchoMismatch || error instanceof NotCanonical ? 3 : 1;
}

function usage() {
  try {
    const names = ['profile', 'user', 'jwt-file', 'agent-version', 'tenant', 'wait'];
    const options = Object.fromEntries(names.map((name) => [name, { type: 'string' }]));
    const { values, positionals } = parseArgs({ options, allowPositionals: true });
    if (values.profile && (values.user || values['jwt-file']) && positionals.length === 1) return { values, positionals };
  } catch {
    // an unknown option: the same answer
  }
  process.stderr.write(
    'usage: run.js --profile FILE (--user NAME | --jwt-file FILE) [--agent-version V] [--tenant T] [--wait S] PLAN.json\n',
  );
  process.exit(2);
}

const { values, positionals } = usage();
let client;
try {
  const profile = loadProfile(values.profile);
  const jwtFile = values['jwt-file'];
  const login = async () =>
    jwtFile ? readFileSync(jwtFile, 'utf8').trim() : developmentLogin(profile, values.user);
  client = new Client(profile, login, { agentVersion: values['agent-version'], tenant: values.tenant });
  process.exitCode = await run(client, parseStrict(readFileSync(positionals[0])), Number(values.wait ?? 0));
} catch (error) {
  process.exitCode = failure(error);
} finally {
  client?.close();
}
