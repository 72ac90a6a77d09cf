// Walks over the web page in a real browser. Arguments: the service's HTTP address, the name of a walk, and a folder for pictures.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { createServer } from "node:http";
import { createRequire } from "node:module";
import { chromium } from "playwright-core";

const [address, walk, pictures] = process.argv.slice(2);
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

async function become(page, user) {
  await page.goto(base);
  await page.fill("#user", user);
  await page.click("text=Continue");
  await page.waitForSelector("h1 >> text=Personal API Tokens");
}

async function create(page, name) {
  await page.goto(`${base}/new`);
  await page.fill("#name", name);
  await page.click("text=Generate New Token");
  return page.textContent("#token");
}

const names = (page) => page.locator("tbody th").allTextContents();
const cookies = async (page) => (await page.context().cookies()).map(({ name, value }) => `${name}=${value}`).join("; ");

/// Sends the form of the page as a program would, from `from`.
async function post(page, path, fields, headers = {}) {
  const body = new URLSearchParams(fields).toString();
  const form = { "content-type": "application/x-www-form-urlencoded", cookie: await cookies(page) };
  return fetch(`${origin}${path}`, { method: "POST", body, redirect: "manual", headers: { ...form, ...headers } });
}

const walks = {
  async mouse() {
    const page = await open();
    await become(page, "mouse");
    await page.click("text=Create Token");
    await page.waitForSelector("h1 >> text=Add Personal API Token");
    await page.fill("#name", "deploy");
    await page.fill("#scopes", "repo:read");
    await page.selectOption("#expiry", "30");
    await page.click("text=Generate New Token");
    const token = await page.textContent("#token");
    assert.match(token, /^pat_[0-9A-Za-z]{22}_[0-9A-Za-z]{49}$/);
    await page.context().grantPermissions(["clipboard-read", "clipboard-write"]);
    await page.click("[data-copy=token]");
    await page.waitForSelector("#token-status >> text=Copied");
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
    await page.click("text=Delete");
    await page.waitForSelector("dialog >> text=third-party platforms");
    await page.click("dialog >> text=No");
    assert.deepEqual(await names(page), ["deploy"]);
    await page.click("text=Delete");
    await page.click("dialog >> text=Yes");
    await page.waitForSelector("[role=status] >> text=deleted");
    await page.waitForSelector("text=You have no tokens yet");
  },

  async keyboard() {
    const page = await open();
    const press = (key) => page.keyboard.press(key);
    const reach = async (text) => {
      for (let count = 0; count < 30; count++) {
        await press("Tab");
        if ((await page.evaluate(() => document.activeElement.textContent.trim())) === text) return;
      }
      assert.fail(`${text} cannot be reached by the keyboard`);
    };
    await page.goto(base);
    await press("Tab");
    await page.keyboard.type("keyboard");
    await press("Enter");
    await page.waitForSelector("text=Create Token");
    await reach("Create Token");
    await press("Enter");
    await page.waitForSelector("#name");
    assert.equal(await page.evaluate(() => document.activeElement.id), "name");
    await page.keyboard.type("ab");
    await press("Enter");
    await page.waitForSelector("#name-error >> text=too short");
    assert.equal(await page.evaluate(() => document.activeElement.id), "name");
    await page.keyboard.type("c");
    await press("Enter");
    await page.waitForSelector("#token");
    await reach("Done");
    await press("Enter");
    await page.waitForSelector("tbody");
    await reach("Delete");
    await press("Enter");
    await page.waitForSelector("dialog[open]");
    // The focus is on the answer that harms nobody, and comes back.
    assert.equal(await page.evaluate(() => document.activeElement.textContent), "No");
    await press("Escape");
    assert.equal(await page.evaluate(() => document.activeElement.textContent), "Delete");
    await press("Enter");
    await press("Shift+Tab");
    assert.equal(await page.evaluate(() => document.activeElement.textContent), "Yes");
    await press("Enter");
    await page.waitForSelector("text=You have no tokens yet");
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
    await page.selectOption("#expiry", "date");
    await page.fill("#date", "2001-01-01");
    await page.click("text=Generate New Token");
    await page.waitForSelector("#problems >> text=in the future");
    await page.fill("#date", "2999-12-31");
    await page.click("text=Generate New Token");
    await page.waitForSelector("#token");
    await page.click("text=Done");
    assert.ok((await page.textContent("tbody tr")).includes("2999-12-31 23:59 UTC"));
    await page.click("text=Delete");
    await page.waitForSelector("h1 >> text=Delete “abc”?");
    await page.waitForSelector("text=third-party platforms");
    await page.click("text=No");
    await page.click("text=Delete");
    await page.click("text=Yes");
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
    await page.waitForSelector("text=already created");
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
    for (const [name, problem] of [["ab", "1 more"], ["😀😀", "1 more"], ["", "3 more"], ["x".repeat(65), "too long"]]) {
      await page.fill("#name", name);
      await page.click("text=Generate New Token");
      await page.waitForSelector(`#name-error >> text=${problem}`);
    }
    // The server says the same, and more.
    await page.evaluate(() => document.getElementById("new").submit());
    await page.waitForSelector("#problems >> text=too long");
    assert.equal(await page.evaluate(() => document.activeElement.id), "problems");
    for (const [name, problem] of [["inv\u200bisible", "cannot be seen"], [script, "already have a token"]]) {
      await page.fill("#name", name);
      await page.click("text=Generate New Token");
      await page.waitForSelector(`#problems >> text=${problem}`);
      assert.equal(await page.inputValue("#name"), name);
    }
  },

  async meanwhile() {
    const page = await open();
    await become(page, "meanwhile");
    await create(page, "first");
    const [one, two] = [await page.context().newPage(), await page.context().newPage()];
    for (const tab of [one, two]) {
      await tab.goto(base);
      await tab.click("text=Delete");
    }
    for (const tab of [one, two]) {
      await tab.click("dialog >> text=Yes");
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
    await victim.waitForSelector("text=out of date");
    server.close();
    await page.goto(base);
    assert.deepEqual(await names(page), ["kept"]);
    assert.ok(token);
    // The same form from this page is accepted.
    assert.equal((await post(page, "/personal-api-tokens/new", { ...fields, key })).status, 200);
  },

  async login() {
    const page = await open();
    const sign_in = async (page, user) => {
      await page.fill("[name=login]", user);
      await page.fill("[name=password]", "any");
      await page.click("button[type=submit]");
    };
    const consent = (page) => page.click("button:has-text('Continue')");
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
    await page.waitForSelector("text=You act as alice");

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
    await page.waitForTimeout(2_100);
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

  async accessible() {
    const users = ["alice", "bob", "carol", "dave"];
    for (const colorScheme of ["light", "dark"]) {
      for (const [size, width] of [["narrow", 320], ["wide", 1280]]) {
        const page = await open({ colorScheme, viewport: { width, height: 800 }, bypassCSP: true, reducedMotion: "reduce" });
        const look = async (name) => {
          await page.addScriptTag({ content: axe });
          const found = (await page.evaluate(() => globalThis.axe.run())).violations;
          assert.deepEqual(found.map((one) => [one.id, one.nodes.map((node) => node.html)]), [], `${name} ${colorScheme} ${width}`);
          const overflows = await page.evaluate(() => document.documentElement.scrollWidth > innerWidth);
          assert.ok(!overflows, `${name} ${width} is wider than the window`);
          if (!["list", "form", "token", "dialog"].includes(name)) return;
          await page.screenshot({ path: `${pictures}/${name}-${colorScheme}-${size}.png`, fullPage: name !== "dialog" });
        };
        await page.goto(base);
        await look("user");
        await become(page, users.pop());
        await look("empty");
        await page.click("text=Create Token");
        await look("form");
        await page.fill("#name", "ab");
        await page.evaluate(() => document.getElementById("new").submit());
        await page.waitForSelector("#problems");
        await look("problems");
        await page.fill("#name", "deploy from CI");
        await page.fill("#scopes", "repo:read repo:write");
        await page.click("text=Generate New Token");
        await page.waitForSelector("#token");
        await look("token");
        for (const name of ["Terraform on my laptop", "nightly backup"]) await create(page, name);
        await page.click("text=Done");
        await look("list");
        await page.click("text=Delete >> nth=0");
        await page.waitForSelector("dialog[open]");
        await look("dialog");
        await page.goto(new URL(await page.getAttribute("[data-delete] >> nth=0", "href"), base).href);
        await look("question");
        await page.goto(`${base}/0193e4a0-0000-7000-8000-000000000000/delete`).catch(() => {});
        await look("message");
        await page.context().close();
      }
    }
  },
};

try {
  await walks[walk]();
  console.log("done");
} finally {
  await browser.close();
}
