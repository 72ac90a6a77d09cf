// The page works without this script. With it, times are in the reader's zone and locale, names are checked while they are
// typed, a dialog asks before a token is deleted, and buttons copy texts.
"use strict";

const all = (selector, root = document) => [...root.querySelectorAll(selector)];

// Times. The locale is the browser's, not the page's: 3/4 is another day elsewhere.
const formats = {
  date: new Intl.DateTimeFormat(undefined, { dateStyle: "medium" }),
  time: new Intl.DateTimeFormat(undefined, { timeStyle: "short" }),
  full: new Intl.DateTimeFormat(undefined, { dateStyle: "full", timeStyle: "long" }),
};
for (const time of all("time")) {
  const at = new Date(time.dateTime);
  for (const part of all("[data-date]", time)) part.textContent = formats.date.format(at);
  for (const part of all("[data-time]", time)) part.textContent = formats.time.format(at);
  time.title = formats.full.format(at);
}

// Some browsers ignore autofocus outside of inputs. A focused message is read aloud and scrolled to.
document.querySelector("[data-focus]")?.focus();

// A reload would show the notice of a deletion again.
const address = new URL(location);
if (address.searchParams.has("deleted")) {
  address.searchParams.delete("deleted");
  history.replaceState(null, "", address);
}

// The name. The server checks it again, with the same limits and words.
const input = document.getElementById("name");
if (input) {
  const { min, max, short, long, invisible } = input.dataset;
  const error = document.getElementById("name-error");
  const problem = () => {
    const text = input.value.trim().normalize("NFC");
    const length = [...text].length;
    if (/[\p{Cc}\p{Cf}\p{Zl}\p{Zp}\p{Default_Ignorable_Code_Point}\u2800]/u.test(text)) return invisible;
    if (length < min) return short;
    return length > max ? long : "";
  };
  const show = () => {
    const text = problem();
    if (error.textContent !== text) error.textContent = text;
    if (text) input.setAttribute("aria-invalid", "true");
    else input.removeAttribute("aria-invalid");
  };
  let pause;
  input.addEventListener("input", () => {
    clearTimeout(pause);
    // A message disappears at once, but appears only after a pause: nobody wants to be corrected in the middle of a word. Not
    // when the field is left: a click may be the cause, and the message would move what is clicked away from the pointer.
    if (problem()) pause = setTimeout(show, 800);
    else show();
  });
  input.form.addEventListener("submit", (event) => {
    clearTimeout(pause);
    if (!problem()) return;
    event.preventDefault();
    show();
    input.focus();
  });
}

// A click on "On a date" moves the focus to the date field.
for (const radio of all("[name=expiry][value=date]")) {
  radio.addEventListener("click", (event) => {
    // Arrow keys also cause a click, with `detail` 0. They must not move the focus out of the group.
    if (event.detail) document.getElementById("date").focus();
  });
}

// A double click sends one form. The server refuses the second one, but the reader would see only its answer.
let sent = false;
for (const form of document.forms) {
  form.addEventListener("submit", (event) => {
    if (event.defaultPrevented) return;
    if (sent) event.preventDefault();
    sent = true;
    // The reader may have stopped the browser and try again.
    setTimeout(() => (sent = false), 5000);
  });
}

// Copying.
const status = document.getElementById("copy-status");
for (const button of all("[data-copy]")) {
  const code = document.getElementById(button.dataset.copy);
  let pause;
  button.hidden = false;
  button.addEventListener("click", async () => {
    // Emptied first, so that a second copy is announced as well.
    status.textContent = "";
    status.classList.add("hidden");
    clearTimeout(pause);
    try {
      await navigator.clipboard.writeText(code.textContent);
      status.textContent = button.dataset.copied;
      button.classList.add("is-copied");
      pause = setTimeout(() => button.classList.remove("is-copied"), 2500);
    } catch {
      getSelection().selectAllChildren(code);
      status.textContent = status.dataset.failed;
      status.classList.remove("hidden");
    }
  });
}

// Deleting. Closing the dialog puts the focus back on the button of the row.
const dialog = document.getElementById("confirm");
if (dialog) {
  for (const link of all("[data-delete]")) {
    link.setAttribute("aria-haspopup", "dialog");
    link.addEventListener("click", (event) => {
      // Another tab was asked for.
      if (event.ctrlKey || event.metaKey || event.shiftKey) return;
      event.preventDefault();
      for (const part of all("[data-fill]", dialog)) {
        const cell = link.closest("tr").querySelector(`[data-cell=${part.dataset.fill}]`);
        part.replaceChildren(...cell.cloneNode(true).childNodes);
      }
      dialog.querySelector("form").action = link.href;
      dialog.showModal();
    });
  }
  dialog.querySelector("[data-close]").addEventListener("click", () => dialog.close());
}

// The token is shown once. Done replaces the entry in the history, so that Back does not return here. When the page is
// left, the token is removed, so that the browser does not keep it in memory.
for (const link of all("[data-replace]")) {
  link.addEventListener("click", (event) => {
    event.preventDefault();
    location.replace(link.href);
  });
}
addEventListener("pagehide", () => all("[data-secret]").forEach((code) => code.replaceChildren()));
addEventListener("pageshow", (event) => {
  // From memory: the list may have changed, and the form may have been sent. Only an unsent form is kept.
  if (!event.persisted) return;
  const [done] = all("[data-replace]");
  if (done) location.replace(done.href);
  else if (sent || !input) location.reload();
});
