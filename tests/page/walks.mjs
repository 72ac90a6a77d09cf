// Walks over the web page in a real browser. Arguments: the service's HTTP address, the name of a walk, a folder for pictures, and
// what the walk needs to know.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { createServer } from "node:http";
import { createRequire } from "node:module";
import { createInterface } from "node:readline";
import { chromium } from "playwright-core";

const [address, walk, pictures, ...known] = process.argv.slice(2);
const origin = `http://${address}`;
const base = `${origin}/personal-api-tokens`;
const axe = readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");
// The tests may run as root, where the sandbox cannot, and in containers with little shared memory.
const browser = await chromium.launch({ executablePath: process.env.CHROMIUM, args: ["--no-sandbox", "--disable-dev-shm-usage"] });

async function open(options = {}) {
  const context = await browser.newContext({ timezoneId: "Europe/Berlin", ...options });
  context.setDefaultTimeout(30_000);
  const page = await context.newPage();
  page.on("pageerror", (error) => assert.fail(error));
  // A refusal of the server is one too, and some walks are about these. The provider's pages are not ours.
  page.on("console", (message) => {
    const is_refusal = message.text().startsWith("Failed to load resource: the server responded");
    const is_ours = message.location().url.startsWith(origin);
    assert.ok(message.type() !== "error" || is_refusal || !is_ours, message.text());
  });
  return page;
}

const answers = createInterface({ input: process.stdin })[Symbol.asyncIterator]();

/// Has the test advance the service's clock.
async function advance(seconds) {
  console.log(`advance ${seconds}`);
  assert.equal((await answers.next()).value, "advanced");
}

async function become(page, user) {
  await page.goto(base);
  await page.fill("#user", user);
  await page.click("text=Continue");
  await page.waitForSelector("h1 >> text=Personal API Tokens");
}

async function create(page, name, expiry = "90", scopes = "") {
  await page.goto(`${base}/new`);
  await page.fill("#name", name);
  await page.check(`[name=expiry][value="${expiry}"]`);
  await page.fill("#scopes", scopes);
  await page.click("text=Generate New Token");
  return page.textContent("#token");
}

async function sign_in(page, user) {
  await page.fill("[name=login]", user);
  await page.fill("[name=password]", "any");
  await page.click("button[type=submit]");
}
const consent = (page) => page.click("button:has-text('Continue')");

const cell = (page, row, label) => page.locator(`tbody tr >> nth=${row}`).locator(`[data-label="${label}"]`);
const names = (page) => page.locator("tbody th").allTextContents();
const cookies = async (page) => (await page.context().cookies()).map(({ name, value }) => `${name}=${value}`).join("; ");

/// Sends the form of the page as a program would, from `from`.
async function post(page, path, fields, headers = {}) {
  const body = new URLSearchParams(fields).toString();
  const form = { "content-type": "application/x-www-form-urlencoded", cookie: await cookies(page) };
  return fetch(`${origin}${path}`, { method: "POST", body, redirect: "manual", headers: { ...form, ...headers } });
}

const yes = "dialog button:text-is('Yes')";
const no = "dialog button:text-is('No')";
const focused = (page) => page.evaluate(() => document.activeElement.id || document.activeElement.textContent.trim());

const walks = {
  async mouse() {
    const page = await open();
    await become(page, "mouse");
    await page.click("text=Create Token");
    await page.waitForSelector("h1 >> text=Add Personal API Token");
    await page.fill("#name", "deploy");
    await page.fill("#scopes", "repo:read");
    await page.click("text=30 days");
    await page.click("text=Generate New Token");
    const token = await page.textContent("#token");
    assert.match(token, /^pat_[0-9A-Za-z]{22}_[0-9A-Za-z]{49}$/);
    await page.context().grantPermissions(["clipboard-read", "clipboard-write"]);
    await page.click("[data-copy=token]");
    await page.waitForSelector("#copy-status >> text=Copied: Token");
    await page.waitForSelector("[data-copy=token] .copied:visible");
    assert.equal(await page.evaluate(() => navigator.clipboard.readText()), token);
    assert.equal(await page.textContent("#variable"), `export API_TOKEN=${token}`);
    // Nothing of it is in the address or in the browser's storage.
    const kept = await page.evaluate(() => JSON.stringify([location.href, { ...localStorage }, { ...sessionStorage }]));
    assert.ok(!kept.includes(token.slice(27)), kept);
    await page.click("text=Done");
    assert.deepEqual(await names(page), ["deploy"]);
    const row = await page.textContent("tbody tr");
    assert.ok(row.includes("...") && row.includes("repo:read") && row.includes("in 30 days") && !row.includes(token), row);
    // Times are in the reader's zone.
    assert.ok(!(await page.textContent("tbody time")).includes("UTC"));
    await page.click("[data-delete]");
    await page.waitForSelector("dialog >> text=third-party platforms");
    assert.ok((await page.textContent("dialog dl")).includes("deploy"));
    await page.click(no);
    assert.deepEqual(await names(page), ["deploy"]);
    await page.click("[data-delete]");
    await page.click(yes);
    await page.waitForSelector("[role=status] >> text=deleted");
    await page.waitForSelector("text=You have no tokens yet");
    // A reload does not say it again.
    await page.reload();
    await page.waitForSelector("text=You have no tokens yet");
    assert.equal(await page.locator("[role=status]").count(), 0);
  },

  async keyboard() {
    const page = await open();
    const press = (key) => page.keyboard.press(key);
    const reach = async (text) => {
      for (let count = 0; count < 30; count++) {
        await press("Tab");
        if ((await focused(page)) === text) return;
      }
      assert.fail(`${text} cannot be reached by the keyboard`);
    };
    await page.goto(base);
    assert.equal(await focused(page), "user");
    await page.keyboard.type("keyboard");
    await press("Enter");
    await page.waitForSelector("text=Create Token");
    // The first stop skips what every page begins with.
    await press("Tab");
    await press("Enter");
    assert.equal(await focused(page), "main");
    await reach("Create Token");
    await press("Enter");
    await page.waitForSelector("#name");
    assert.equal(await focused(page), "name");
    await page.keyboard.type("ab");
    await press("Enter");
    await page.waitForSelector("#name-error >> text=too short");
    assert.equal(await focused(page), "name");
    await page.keyboard.type("c");
    await press("Tab");
    await press("ArrowLeft");
    await reach("Generate New Token");
    await press("Enter");
    await page.waitForSelector("#token");
    await reach("Done");
    await press("Enter");
    await page.waitForSelector("tbody >> text=in 60 days");
    await reach("Delete");
    await press("Enter");
    await page.waitForSelector("dialog[open]");
    // The focus is on the answer that harms nobody, and comes back.
    assert.equal(await focused(page), "No");
    await press("Escape");
    assert.equal(await focused(page), "Delete");
    await press("Enter");
    await press("Shift+Tab");
    assert.equal(await focused(page), "Yes");
    await press("Enter");
    await page.waitForSelector("text=You have no tokens yet");
    // What was done is said where the reader is.
    assert.equal(await focused(page), "The token was deleted.");
  },

  async without_javascript() {
    const page = await open({ javaScriptEnabled: false });
    await become(page, "plain");
    await page.click("text=Create Token");
    await page.fill("#name", "ab");
    await page.fill("#scopes", "repo:read");
    await page.click("text=Generate New Token");
    await page.waitForSelector("#problems >> text=too short");
    // Nothing that was entered is lost.
    assert.equal(await page.inputValue("#name"), "ab");
    assert.equal(await page.inputValue("#scopes"), "repo:read");
    await page.fill("#name", "abc");
    await page.check("[name=expiry][value=date]");
    await page.fill("#date", "2001-01-01");
    await page.click("text=Generate New Token");
    await page.waitForSelector("#problems >> text=from today on");
    await page.fill("#date", "2999-12-31");
    await page.click("text=Generate New Token");
    await page.waitForSelector("#token");
    await page.click("text=Done");
    assert.equal(await page.getAttribute("[data-label=Expires] time", "datetime"), "2999-12-31T23:59:59Z");
    await page.click("[data-delete]");
    await page.waitForSelector("h1 >> text=Delete this token?");
    await page.waitForSelector("dl >> text=abc");
    await page.waitForSelector("text=third-party platforms");
    await page.click("a:text-is('No')");
    await page.click("[data-delete]");
    await page.click("button:text-is('Yes')");
    await page.waitForSelector("text=You have no tokens yet");
  },

  async shown_once() {
    const page = await open();
    await become(page, "once");
    const token = await create(page, "only");
    const shows = async () => {
      for (;;) {
        // While the browser goes from one page to the next there is no content.
        const content = await page.content().catch(() => page.waitForLoadState().catch(() => {}));
        if (content) return content.includes(token);
      }
    };
    assert.ok(await shows());
    // The browser sends the form again.
    await page.reload();
    await page.waitForSelector("text=This form was sent before");
    assert.ok(!(await shows()));
    const tab = await page.context().newPage();
    await tab.goto(base);
    assert.deepEqual(await names(tab), ["only"]);
    assert.ok(!(await tab.content()).includes(token));
    await page.goto(base);
    for (let count = 0; count < 3; count++) {
      await page.goBack().catch(() => {});
      assert.ok(!(await shows()));
    }
    // The token that was shown still works.
    const form = new URLSearchParams({ token });
    const answer = await fetch(`${origin}/oauth2/introspect`, { method: "POST", body: form });
    assert.equal((await answer.json()).active, true);
  },

  async names() {
    const page = await open();
    await become(page, "names");
    const emoji = "😀".repeat(64);
    const script = "<script>alert(1)</script>";
    await create(page, emoji);
    await create(page, script);
    await page.goto(base);
    assert.deepEqual(await names(page), [script, emoji]);
    await page.goto(`${base}/new`);
    for (const [name, problem] of [["ab", "too short"], ["x".repeat(65), "too long"], ["", "too short"], ["inv\u200bisible", "an invisible"], ["😀😀", "too short"]]) {
      await page.fill("#name", name);
      await page.click("text=Generate New Token");
      await page.waitForSelector(`#name-error >> text=${problem}`);
    }
    // The server says the same, and more.
    for (const [name, problem] of [["ab", "too short"], ["x".repeat(65), "too long"], ["inv\u200bisible", "an invisible"], [script, "already have a token"]]) {
      await page.fill("#name", name);
      await page.evaluate(() => document.getElementById("new").submit());
      await page.waitForSelector(`#problems >> text=${problem}`);
      assert.equal(await page.inputValue("#name"), name);
      assert.equal(await focused(page), "problems");
    }
  },

  async meanwhile() {
    const page = await open();
    await become(page, "meanwhile");
    await create(page, "first");
    const [one, two] = [await page.context().newPage(), await page.context().newPage()];
    for (const tab of [one, two]) {
      await tab.goto(base);
      await tab.click("[data-delete]");
    }
    for (const tab of [one, two]) {
      await tab.click(yes);
      await tab.waitForSelector("[role=status] >> text=deleted");
    }
    await page.goto(`${base}/new`);
    await page.fill("#name", "too late");
    const event = {
      specversion: "1.0", id: "1", source: "/identity", type: "identity.v1.UserDeleted", data: { userId: "meanwhile" },
    };
    const headers = { "content-type": "application/cloudevents+json" };
    const answer = await fetch(`${origin}/events`, { method: "POST", headers, body: JSON.stringify(event) });
    assert.equal(answer.status, 202);
    await page.click("text=Generate New Token");
    await page.waitForSelector("text=Your account was deleted");
    assert.equal(await page.inputValue("#name"), "too late");
  },

  async other_user() {
    const page = await open();
    await become(page, "alice");
    await create(page, "hers");
    await page.goto(base);
    await page.click("[data-delete]");
    const form = await page.context().newPage();
    await form.goto(`${base}/new`);
    await form.fill("#name", "whose");
    // Another tab goes on as another user.
    const tab = await page.context().newPage();
    await tab.goto(base);
    await tab.click("text=Change user");
    await become(tab, "bob");
    // Nothing is deleted that is said to be, and nothing is made for somebody else.
    await page.click(yes);
    await page.waitForSelector("text=signed in as another user");
    await form.click("text=Generate New Token");
    await form.waitForSelector("#problems >> text=signed in as another user");
    assert.equal(await form.inputValue("#name"), "whose");
    await tab.reload();
    await tab.waitForSelector("text=You have no tokens yet");
    await tab.click("text=Change user");
    await become(tab, "alice");
    assert.deepEqual(await names(tab), ["hers"]);
  },

  async forgery() {
    const page = await open();
    await become(page, "victim");
    const token = await create(page, "kept");
    await page.goto(base);
    const remove = new URL(await page.getAttribute("[data-delete]", "href"), base).pathname;
    const key = await page.inputValue("dialog [name=key]");
    const request_id = "5b3c8f0e-6d0b-4c1e-9a55-0f6c3b1d7e42";
    const fields = { request_id, name: "forged", expiry: "never" };
    // Without the form's key, with another one, and from another site.
    for (const [sent, headers] of [
      [{}, {}],
      [{ key: key.slice(1) + "A" }, {}],
      [{ key }, { "sec-fetch-site": "cross-site" }],
      [{ key }, { "sec-fetch-site": "same-site" }],
      [{ key }, { origin: "https://evil.example.com" }],
      [{ key }, { origin: "null" }],
    ]) {
      for (const [path, more] of [["/personal-api-tokens/new", fields], [remove, {}], ["/personal-api-tokens/user", { user: "x" }]]) {
        const { status } = await post(page, path, { ...more, ...sent }, headers);
        assert.equal(status, 403, `${path} ${JSON.stringify([sent, headers])}`);
      }
    }
    // A page of another origin has the browser send a form; the cookies of this site go along, since the host is the same.
    const attack = `<form method="post" action="${base}/new"><input name="name" value="forged"><input name="expiry" value="never">
      <input name="key" value="${"A".repeat(43)}"><input name="request_id" value="${request_id}"></form><script>document.forms[0].submit()</script>`;
    const server = createServer((_, answer) => answer.setHeader("content-type", "text/html").end(attack)).listen(0, "127.0.0.1");
    await new Promise((resolve) => server.once("listening", resolve));
    const victim = await page.context().newPage();
    await victim.goto(`http://127.0.0.1:${server.address().port}/`);
    await victim.waitForSelector("text=not sent from this page");
    server.close();
    await page.goto(base);
    assert.deepEqual(await names(page), ["kept"]);
    assert.ok(token);
    // The same form from this page is accepted.
    assert.equal((await post(page, "/personal-api-tokens/new", { ...fields, key })).status, 200);
    // Another service of this host may have set a cookie that is no key: it is replaced.
    await page.context().addCookies([{ name: "latchkey-form", value: "x", url: origin }]);
    await page.goto(`${base}/new`);
    assert.notEqual(await page.inputValue("#new [name=key]"), "x");
    // Who lost the key, with its cookie, sends the form once more.
    await page.goto(`${base}/new`);
    await page.fill("#name", "once more");
    await page.context().clearCookies({ name: "latchkey-form" });
    await page.click("text=Generate New Token");
    await page.waitForSelector("#problems >> text=out of date");
    assert.equal(await page.inputValue("#name"), "once more");
    await page.click("text=Generate New Token");
    await page.waitForSelector("#token");
  },

  async login() {
    const page = await open();
    const session = async (page) => (await page.context().cookies()).find(({ name }) => name === "__Host-latchkey-session");
    // What an attacker left in the browser is worth nothing, and is replaced.
    const planted = { name: "__Host-latchkey-session", value: "A".repeat(120), url: "https://127.0.0.1/", secure: true };
    await page.context().addCookies([planted]);
    let returned;
    page.on("request", (request) => {
      if (request.url().includes("/callback?")) returned = request.url();
    });
    await page.goto(`${base}/new`);
    await sign_in(page, "alice");
    await consent(page);
    // Back where the login began.
    await page.waitForSelector("h1 >> text=Add Personal API Token");
    const kept = await session(page);
    assert.ok(kept.httpOnly && kept.secure && kept.value !== planted.value && !kept.value.includes("alice"), JSON.stringify(kept));
    await page.fill("#name", "by login");
    await page.click("text=Generate New Token");
    await page.waitForSelector("#token");
    await page.click("text=Done");
    assert.deepEqual(await names(page), ["by login"]);
    assert.equal(await page.textContent(".user-id"), "Signed in as alice");

    // A code is good once, and only in the browser that began the login.
    const stranger = await open();
    for (const other of [page, stranger]) {
      assert.equal((await other.goto(returned)).status(), 401);
    }
    // A changed session is none.
    const changed = kept.value.slice(0, 40) + (kept.value[40] === "A" ? "B" : "A") + kept.value.slice(41);
    await stranger.context().addCookies([{ ...planted, value: changed }]);
    await stranger.goto(base);
    await stranger.waitForSelector("[name=login]");
    // A form without a session says so; it makes nothing.
    const { status } = await post(stranger, "/personal-api-tokens/new", { key: "x", name: "forged", expiry: "never" });
    assert.equal(status, 401);

    // A login that is not recent is asked for again before a token is made.
    await page.waitForTimeout(5_100);
    await page.goto(`${base}/new`);
    await sign_in(page, "alice");
    await page.waitForSelector("h1 >> text=Add Personal API Token");

    await page.goto(base);
    await page.click("text=Sign out");
    await page.click("button[value=yes]");
    await page.waitForSelector("text=You are signed out");
    await page.goto(base);
    await page.waitForSelector("[name=login]");
  },

  // The settings: sessions of 10 minutes without use and an hour in any case.
  async session() {
    const page = await open();
    let logins = 0;
    page.on("request", (request) => {
      if (request.url().includes("/auth?")) logins++;
    });
    await page.goto(`${base}/new`);
    await sign_in(page, "alice");
    await consent(page);
    await page.fill("#name", "not lost");
    await page.check("[name=expiry][value=never]");
    await page.fill("#scopes", "repo:read");
    await advance(601);
    await page.click("text=Generate New Token");
    await page.waitForSelector("#problems >> text=Your session has ended");
    const [tab] = await Promise.all([page.waitForEvent("popup"), page.click("#problems >> text=Sign in")]);
    // The provider still knows who it is.
    await tab.waitForSelector("h1 >> text=Add Personal API Token");
    assert.equal(await page.inputValue("#name"), "not lost");
    await page.click("text=Generate New Token");
    await page.waitForSelector("#token");
    await page.click("text=Done");
    assert.deepEqual(await names(page), ["not lost"]);
    assert.equal(await cell(page, 0, "Expires").textContent(), "Never");

    // In use, a session lasts for an hour, and no longer.
    logins = 0;
    for (let minutes = 9; minutes < 60; minutes += 9) {
      await advance(9 * 60);
      await page.goto(base);
      assert.equal(logins, 0, `after ${minutes} minutes`);
    }
    await advance(9 * 60);
    await page.goto(base);
    assert.equal(logins, 1);
    assert.deepEqual(await names(page), ["not lost"]);
  },

  // The settings: uses are written every second. More than a page of tokens.
  async list() {
    const page = await open();
    await become(page, "list");
    const token = await create(page, "soon", "30", "a:1 b:2 c:3 d:4 e:5");
    await create(page, "later", "60");
    await create(page, "never", "never");
    await page.goto(base);
    assert.deepEqual(await names(page), ["never", "later", "soon"]);
    assert.equal(await cell(page, 2, "Last used").textContent(), "Never");
    await fetch(`${origin}/oauth2/introspect`, { method: "POST", body: new URLSearchParams({ token }) });
    while ((await cell(page, 2, "Last used").textContent()) === "Never") await page.reload();
    // Few scopes are shown at once, the others on demand.
    assert.equal(await page.locator("text=e:5").isVisible(), false);
    await page.click("text=2 more");
    assert.equal(await page.locator("text=e:5").isVisible(), true);
    await advance(24 * 86_400);
    await page.reload();
    assert.equal(await page.textContent(".soon"), "in 6 days");
    await advance(7 * 86_400);
    await page.reload();
    assert.ok((await cell(page, 2, "Expires").textContent()).startsWith("Expired"));
    assert.equal(await page.locator("tr.expired").count(), 1);

    const key = await page.inputValue("dialog [name=key]");
    for (let count = 0; count < 48; count++) {
      const fields = { key, name: `one of many ${count}`, expiry: "never", request_id: crypto.randomUUID() };
      assert.equal((await post(page, "/personal-api-tokens/new", fields)).status, 200);
    }
    await page.reload();
    assert.deepEqual([(await names(page))[0], (await names(page)).length], ["one of many 47", 50]);
    await page.click("text=Older tokens");
    await page.waitForSelector("tbody >> text=soon");
    assert.deepEqual(await names(page), ["soon"]);
    await page.click("[data-delete]");
    await page.click(yes);
    await page.waitForSelector("[role=status] >> text=deleted");
    assert.equal((await names(page)).length, 50);
    assert.equal(await page.locator("text=Older tokens").count(), 0);
  },

  // The settings: a list of scopes, a logo, a light accent colour, a link back.
  async branded() {
    for (const colorScheme of ["light", "dark"]) {
      const page = await open({ colorScheme, bypassCSP: true });
      await become(page, "branded");
      assert.equal(await page.evaluate(() => document.querySelector(".brand img").naturalWidth > 0), true);
      assert.equal(await page.textContent(".brand"), "Acme");
      assert.equal(await page.getAttribute(".back", "href"), "https://app.example.com/settings");
      await audit(page, `branded ${colorScheme}`);
      await page.goto(`${base}/new`);
      await page.fill("#name", "ab");
      // A click while the name is wrong is not lost.
      await page.check("text=Read repositories");
      await page.evaluate(() => document.getElementById("new").submit());
      await page.waitForSelector("#problems");
      assert.equal(await page.isChecked("[value='repo:read']"), true);
      assert.equal(await page.isChecked("[value='repo:write']"), false);
      await audit(page, `scopes ${colorScheme}`);
      await page.fill("#name", `of ${colorScheme}`);
      await page.click("text=Generate New Token");
      await page.waitForSelector("#curl >> text=https://api.acme.example.com/");
      await page.click("text=Done");
      assert.equal((await cell(page, 0, "Scopes").textContent()).trim(), "repo:read");
      // One that is not in the list is refused.
      const key = await page.inputValue("dialog [name=key]");
      const fields = { key, name: "more", expiry: "never", scopes: "admin", request_id: crypto.randomUUID() };
      assert.equal((await post(page, "/personal-api-tokens/new", fields)).status, 422);
      await page.context().close();
    }
  },

  // Known: the URLs of a product that may show the page in a frame, and of another site. A proxy says who the user is.
  async framed() {
    const [product, other] = known;
    const page = await open({ ignoreHTTPSErrors: true });
    await page.goto(product);
    const frame = page.frameLocator("iframe");
    await frame.locator("text=Create Token").click();
    await frame.locator("#name").fill("in a frame");
    await frame.locator("text=Generate New Token").click();
    assert.match(await frame.locator("#token").textContent(), /^pat_/);
    await frame.locator("text=Done").click();
    await frame.locator("[data-delete]").click();
    await frame.locator(yes).click();
    await frame.locator("text=You have no tokens yet").waitFor();

    const stranger = await page.context().newPage();
    const refused = stranger.waitForEvent("console", (message) => message.text().includes("frame-ancestors"));
    await stranger.goto(other);
    await refused;
    await stranger.frames()[1].waitForURL("chrome-error://chromewebdata/", { waitUntil: "commit" });
  },

  async light() {
    await states("light", [["narrow", 320], ["tablet", 768], ["wide", 1280], ["large", 1920]]);
  },

  async dark() {
    await states("dark", [["narrow", 320], ["wide", 1280]]);
  },
};

/// Fails if axe-core finds a violation, or if the page is wider than the window.
async function audit(page, state) {
  await page.addScriptTag({ content: axe });
  const { violations } = await page.evaluate(() => globalThis.axe.run());
  assert.deepEqual(violations.map((one) => [one.id, one.nodes.map((node) => node.html)]), [], state);
  const overflows = await page.evaluate(() => document.documentElement.scrollWidth > innerWidth);
  assert.ok(!overflows, `${state} is wider than the window`);
}

/// Goes through every state of the page, audits it and takes pictures.
async function states(colorScheme, sizes) {
  for (const [size, width] of sizes) {
    const page = await open({ colorScheme, viewport: { width, height: 800 }, bypassCSP: true, reducedMotion: "reduce" });
    const look = async (state, picture = true) => {
      await audit(page, `${state} ${colorScheme} ${width}`);
      const is_wanted = picture && (size === "narrow" || size === "wide" || (size === "large" && state === "list"));
      if (is_wanted) await page.screenshot({ path: `${pictures}/${state}-${colorScheme}-${size}.png`, fullPage: state !== "dialog" });
    };
    await page.goto(base);
    await look("user", false);
    await become(page, `${size}-reader`);
    await look("empty", false);
    for (const [name, expiry, scopes, days] of [
      ["laptop", "30", "repo:read", 26],
      ["deploy from CI", "365", "repo:read repo:write packages:publish ci:run ci:cancel", 9],
      ["Terraform", "90", "repo:read repo:write", 3],
    ]) {
      await create(page, name, expiry, scopes);
      await advance(days * 86_400 + 4_321);
    }
    await page.goto(base);
    await page.click("text=Add API Token");
    await look("form");
    await page.fill("#name", "ab");
    await page.waitForSelector("#name-error >> text=too short");
    await page.check("[name=expiry][value=date]");
    await page.evaluate(() => document.getElementById("new").submit());
    await page.waitForSelector("#problems");
    await look("problems", false);
    await page.fill("#name", "integration-tests-of-the-payment-service-in-the-staging-cluster");
    await page.check("[name=expiry][value=never]");
    await look("never", false);
    await page.click("text=Generate New Token");
    await page.waitForSelector("#token");
    await look("token");
    await page.click("text=Done");
    await page.waitForSelector("tbody");
    await look("list");
    await page.click("[data-delete] >> nth=1");
    await page.waitForSelector("dialog[open]");
    await look("dialog");
    await page.goto(await page.evaluate(() => document.querySelector("[data-delete]").href));
    await look("question", false);
    await page.goto(`${base}/0193e4a0-0000-7000-8000-000000000000/delete`);
    await look("message", false);
    await page.context().close();
  }
}

try {
  await walks[walk]();
  console.log("done");
} finally {
  await browser.close();
  process.stdin.destroy();
}
