// An identity provider of oidc-provider with its defaults: `node oidc_provider.mjs MODULE CONFIGURATION`.
// MODULE: path of the package's main file. CONFIGURATION: path of a JSON file.
import { readFileSync } from 'node:fs';

const { default: Provider } = await import(process.argv[2]);
const { issuer, client, jwks, users_file: usersFile } = JSON.parse(readFileSync(process.argv[3], 'utf8'));

// The file of users is read at each request, so that a person can be removed while the provider runs.
function findAccount(_, accountId) {
  const claims = JSON.parse(readFileSync(usersFile, 'utf8'))[accountId];
  return claims && { accountId, claims: () => ({ sub: accountId, ...claims }) };
}

const provider = new Provider(issuer, {
  clients: [client],
  jwks,
  findAccount,
  claims: { email: ['email', 'email_verified'], groups: ['groups'] },
});
provider.listen(Number(new URL(issuer).port), '127.0.0.1');
