// The certified identity provider `oidc-provider` with its own sign-in pages. Arguments: path of the package, port,
// client id, client secret, redirect URI. The e-mail address is that with which a person signs in.
const [path, port, clientId, clientSecret, redirectUri] = process.argv.slice(2);
const { Provider } = await import(path);
const issuer = `http://127.0.0.1:${port}`;
const provider = new Provider(issuer, {
  clients: [{ client_id: clientId, client_secret: clientSecret, redirect_uris: [redirectUri], grant_types: ["authorization_code", "refresh_token"] }],
  issueRefreshToken: async (context, client, code) => client.grantTypeAllowed("refresh_token"),
  claims: { openid: ["sub"], email: ["email", "email_verified"], groups: ["groups"] },
  scopes: ["openid", "email", "groups", "offline_access"],
  pkce: { required: () => true },
  findAccount: async (context, id) => ({
    accountId: id,
    claims: async () => ({
      sub: id,
      email: id,
      email_verified: true,
      groups: id.startsWith("root@") ? ["platform", "all"] : ["all"],
    }),
  }),
});
provider.listen(Number(port), "127.0.0.1", () => console.log("ready"));
