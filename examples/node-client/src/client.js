/** An agent's view of Counterseal: a token for a person's request, then propose, verify the echo, commit, watch. */
import { dirname, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import grpc from '@grpc/grpc-js';
import { loadSync } from '@grpc/proto-loader';
import { verifyEcho } from './echo.js';
import { newId } from './ids.js';
import { CallFailed } from './reasons.js';
import { proposeRequest } from './request.js';

const PROTOS = resolve(dirname(fileURLToPath(import.meta.url)), '../../../protos');
const CALL_SECONDS = 30;
const RENEW_BEFORE_MS = 30_000;
const RETRIES = 5;
const APPROVAL_PAUSE_MS = 10_000;

function loadApi(protos) {
  const files = ['credentials/v1/token.proto', 'executor/v1/plan.proto'].map((name) => `counterseal/api/${name}`);
  const options = { keepCase: true, longs: String, enums: String, defaults: true, oneofs: true, includeDirs: [protos] };
  return grpc.loadPackageDefinition(loadSync(files, options)).counterseal.api;
}

export class Client {
  #tokens;
  #plans;
  #profile;
  #login;
  #agentVersion;
  #token;

  /**
   * profile: from loadProfile. login: async () => OIDC JWT of the person on whose behalf the agent acts; called again
   * when the token has to be renewed. agentVersion: one that the agent's registration lists. requestId: correlation id
   * of the person's request, in every ledger entry that it causes.
   */
  constructor(profile, login, { agentVersion, tenant, requestId = newId(), protos = PROTOS } = {}) {
    const api = loadApi(protos);
    this.#profile = profile;
    this.#login = login;
    this.#agentVersion = agentVersion;
    this.tenant = tenant ?? profile.tenant;
    this.requestId = requestId;
    this.#tokens = this.#stub(api.credentials.v1.TokenService, 'credentials');
    this.#plans = this.#stub(api.executor.v1.PlanService, 'executor');
  }

  /**
   * Propose a document of ours and verify what came back.
   *
   * Returns {plan, digest, document}; on DENY `document` is null, and `plan.decision` says why.
   * idempotencyKey: the same key for a repeated attempt at the same proposal.
   */
  async propose(draft, { idempotencyKey = newId(), ...sealed } = {}) {
    const request = proposeRequest(draft, idempotencyKey, sealed);
    const answer = await this.#call(this.#plans, 'ProposePlan', request);
    if (answer.canonical_plan.length === 0) return { plan: answer.plan, digest: answer.plan_digest, document: null };
    const ours = { tenant: this.tenant, environment: this.#profile.environment, request_id: this.requestId };
    const document = verifyEcho(draft, answer.canonical_plan, answer.plan_digest, ours);
    return { plan: answer.plan, digest: answer.plan_digest, document };
  }

  /** Commit exactly the bytes behind a digest that `propose` verified. */
  async commit(planId, digest, idempotencyKey = newId()) {
    const request = { plan_id: planId, plan_digest: digest, idempotency_key: idempotencyKey };
    return (await this.#call(this.#plans, 'CommitPlan', request)).plan;
  }

  /** The plan as it is now, with policy's present answer. */
  async get(planId) {
    return (await this.#call(this.#plans, 'GetPlan', { plan_id: planId })).plan;
  }

  /**
   * Commit once people have approved: the gate itself is asked, with one idempotency key, in growing pauses, because
   * only its answer counts. Throws CallFailed with APPROVAL_REQUIRED when nobody did within `seconds`.
   */
  async commitWhenApproved(planId, digest, seconds) {
    const key = newId();
    const end = Date.now() + seconds * 1000;
    for (let pauseMs = 1000; ; pauseMs = Math.min(2 * pauseMs, APPROVAL_PAUSE_MS)) {
      try {
        return await this.commit(planId, digest, key);
      } catch (error) {
        if (error.reason !== 'APPROVAL_REQUIRED' || Date.now() + pauseMs > end) throw error;
      }
      await new Promise((resume) => setTimeout(resume, pauseMs));
    }
  }

  /** Yield the plan's events in order until the terminal one, across lost connections and renewed tokens. */
  async *watch(planId) {
    let after = '0';
    for (let failures = 0; ; ) {
      try {
        const stream = this.#plans.WatchPlan({ plan_id: planId, after_seq: after }, await this.#metadata());
        for await (const event of stream) {
          failures = 0;
          if (event.type === '') continue; // heartbeat
          after = event.seq;
          yield event;
          if (event.terminal) return;
        }
      } catch (error) {
        failures += 1;
        const again = [grpc.status.UNAVAILABLE, grpc.status.UNAUTHENTICATED].includes(error.code);
        if (!again || failures > RETRIES) throw new CallFailed('WatchPlan', error);
        if (error.code === grpc.status.UNAUTHENTICATED) this.#token = undefined; // streams end with their token
        await pause(failures);
      }
    }
  }

  close() {
    this.#tokens.close();
    this.#plans.close();
  }

  /** mTLS: services are checked by the DNS name in their certificate, whatever address they are reached at. */
  #stub(Service, service) {
    const { identity, services, environment } = this.#profile;
    const name = `${service}.${environment}.internal`;
    const credentials = grpc.credentials.createSsl(identity.ca, identity.key, identity.cert);
    const options = { 'grpc.ssl_target_name_override': name, 'grpc.default_authority': name };
    return new Service(services[service], credentials, { ...options, 'grpc.enable_http_proxy': 0 });
  }

  async #metadata() {
    const metadata = new grpc.Metadata();
    metadata.set('txn-token', await this.#currentToken());
    return metadata;
  }

  async #currentToken() {
    if (this.#token === undefined || this.#token.expires - Date.now() < RENEW_BEFORE_MS) {
      const request = {
        oidc_jwt: await this.#login(),
        tenant: this.tenant,
        request_id: this.requestId,
        agent_version: this.#agentVersion,
      };
      const answer = await unary(this.#tokens, 'ExchangeToken', request, new grpc.Metadata());
      this.#token = { text: answer.txn_token, expires: Number(answer.expire_time.seconds) * 1000 };
    }
    return this.#token.text;
  }

  /** Every call carries an idempotency key or reads, so that UNAVAILABLE may be tried again. */
  async #call(stub, method, request) {
    for (let failures = 0; ; ) {
      try {
        return await unary(stub, method, request, await this.#metadata());
      } catch (error) {
        failures += 1;
        if (error.code !== grpc.status.UNAVAILABLE || failures > RETRIES) throw error;
        await pause(failures);
      }
    }
  }
}

function unary(stub, method, request, metadata) {
  const deadline = new Date(Date.now() + CALL_SECONDS * 1000);
  return new Promise((resolveAnswer, reject) => {
    stub[method](request, metadata, { deadline }, (error, answer) => {
      if (error) reject(new CallFailed(method, error));
      else resolveAnswer(answer);
    });
  });
}

function pause(failures) {
  return new Promise((resume) => setTimeout(resume, 100 * 2 ** failures));
}
