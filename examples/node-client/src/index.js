export { canonical, digest, NotCanonical, pae, parseCanonical, parseStrict } from './canonical.js';
export { Client } from './client.js';
export { EchoMismatch, verifyEcho } from './echo.js';
export { newId } from './ids.js';
export { developmentLogin, loadProfile } from './profile.js';
export { CallFailed } from './reasons.js';
export { proposeRequest } from './request.js';
