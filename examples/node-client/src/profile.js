/** A client profile: where the services are, and the certificate that says who this workload is. */
import { readFileSync } from 'node:fs';
import { request } from 'node:https';
import { dirname, resolve } from 'node:path';
import { parse } from 'smol-toml';

/** Read profile.toml; paths in it are relative to the file. */
export function loadProfile(file) {
  const table = parse(readFileSync(file, 'utf8'));
  const folder = dirname(resolve(file));
  const at = (name) => readFileSync(resolve(folder, name));
  return {
    environment: table.environment,
    tenant: table.tenant,
    clientId: table.client_id,
    services: table.services,
    identity: { cert: at(table.cert_file), key: at(table.key_file), ca: at(table.ca_file) },
    login: table.login && {
      issuer: table.login.issuer,
      ca: at(table.login.ca_file),
      password: at(table.login.password_file).toString().trim(),
    },
  };
}

/** Get a person's OIDC token from the development issuer. A real deployment has a login of its own. */
export function developmentLogin(profile, username) {
  const { issuer, ca, password } = profile.login;
  const form = new URLSearchParams({ grant_type: 'password', client_id: profile.clientId, username, password });
  return new Promise((resolveToken, reject) => {
    const headers = { 'content-type': 'application/x-www-form-urlencoded', 'content-length': form.toString().length };
    const call = request(`${issuer}/token`, { method: 'POST', ca, headers, timeout: 10_000 }, (response) => {
      const pieces = [];
      response.on('data', (piece) => pieces.push(piece));
      response.on('end', () => {
        if (response.statusCode !== 200) reject(new Error(`the issuer refused the login of ${username}`));
        else resolveToken(JSON.parse(Buffer.concat(pieces).toString()).id_token);
      });
    });
    call.on('timeout', () => call.destroy(new Error('the issuer did not answer')));
    call.on('error', reject);
    call.end(form.toString());
  });
}
