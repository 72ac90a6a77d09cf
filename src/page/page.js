// The page works without this script. With it, names are checked while they are typed, a dialog asks before a token is deleted,
// texts are copied by a button, and times are in the reader's zone.
"use strict";

for (const time of document.querySelectorAll("time")) {
  const at = new Date(time.dateTime);
  time.title = time.textContent;
  time.textContent = at.toLocaleString(document.documentElement.lang, { dateStyle: "medium", timeStyle: "short" });
}

const problems = document.getElementById("problems");
if (problems) problems.focus();

// The server checks the name once more, with the same limits and words.
const name = document.getElementById("name");
if (name) {
  const error = document.getElementById("name-error");
  const problem = () => {
    const length = [...name.value.trim().normalize("NFC")].length;
    if (length < 3) return name.dataset.short.replace("{}", 3 - length);
    return length > 64 ? name.dataset.long : "";
  };
  const show = () => {
    error.textContent = problem();
    if (error.textContent) name.setAttribute("aria-invalid", "true");
    else name.removeAttribute("aria-invalid");
  };
  // Not before the first attempt: nobody wants to be corrected while typing the first characters.
  let tried = name.hasAttribute("aria-invalid");
  name.addEventListener("input", () => tried && show());
  name.addEventListener("change", () => {
    tried = true;
    show();
  });
  name.form.addEventListener("submit", (event) => {
    if (problem()) {
      event.preventDefault();
      tried = true;
      show();
      name.focus();
    }
  });
}

const expiry = document.getElementById("expiry");
if (expiry) {
  const show = () => {
    document.getElementById("date-field").hidden = expiry.value !== "date";
    document.getElementById("expiry-help").hidden = expiry.value !== "never";
  };
  expiry.addEventListener("change", show);
  show();
}

for (const button of document.querySelectorAll("[data-copy]")) {
  const text = document.getElementById(button.dataset.copy);
  const status = document.getElementById(`${button.dataset.copy}-status`);
  button.hidden = false;
  button.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(text.textContent);
      status.textContent = button.dataset.copied;
    } catch {
      getSelection().selectAllChildren(text);
      status.textContent = button.dataset.failed;
    }
  });
}

const dialog = document.getElementById("confirm");
if (dialog) {
  const title = document.getElementById("confirm-title");
  let opener;
  for (const link of document.querySelectorAll("[data-delete]")) {
    link.addEventListener("click", (event) => {
      event.preventDefault();
      opener = link;
      title.textContent = dialog.dataset.title.replace("{}", () => link.dataset.delete);
      dialog.querySelector("form").action = link.href;
      dialog.showModal();
      // The answer that harms nobody.
      dialog.querySelector("[data-close]").focus();
    });
  }
  dialog.querySelector("[data-close]").addEventListener("click", () => dialog.close());
  dialog.addEventListener("close", () => opener && opener.focus());
}

// Browsers may keep a page in memory and show it again when the reader goes back. A token is shown once.
addEventListener("pageshow", (event) => {
  if (event.persisted && document.getElementById("token")) location.reload();
});
addEventListener("pagehide", () => {
  for (const id of ["token", "variable"]) document.getElementById(id)?.replaceChildren();
});
