// The phone as the camera. A photo is kept in the browser until the server has said what is on it, so
// that it may be taken where there is no network; the same photo sent twice is stored once.
const AGAIN = 5000; // ms until the next try
const PATIENCE = 60000; // ms for an answer
const SHOWN = 50;
const find = (id) => document.getElementById(id);

// --- what identifies this phone --------------------------------------------------------------------
// The key comes with the address that is given to people: https://cloud.example/#key=sk_…
const key = new URLSearchParams(location.hash.slice(1)).get("key");
if (key) localStorage.setItem("key", key);
if (!localStorage.getItem("camera")) {
  const random = crypto.getRandomValues(new Uint32Array(1))[0];
  localStorage.setItem("camera", `phone-${random.toString(16).padStart(8, "0")}`);
}

// --- photos that wait ------------------------------------------------------------------------------
const opened = new Promise((done, failed) => {
  const request = indexedDB.open("plates", 1);
  request.onupgradeneeded = () => request.result.createObjectStore("photos", { autoIncrement: true });
  request.onsuccess = () => done(request.result);
  request.onerror = () => failed(request.error);
});

async function photos(mode, act) {
  const store = (await opened).transaction("photos", mode).objectStore("photos");
  return new Promise((done, failed) => {
    const request = act(store);
    store.transaction.oncomplete = () => done(request.result);
    store.transaction.onabort = () => failed(store.transaction.error);
  });
}

// --- what is shown ----------------------------------------------------------------------------------
const lines = new Map(); // by the photo's number

function line(number, photo) {
  if (!lines.has(number)) {
    const item = document.createElement("li");
    const image = document.createElement("img");
    image.alt = "";
    image.src = URL.createObjectURL(photo);
    item.append(image, document.createElement("div"));
    find("results").prepend(item);
    lines.set(number, item);
    while (find("results").children.length > SHOWN) find("results").lastChild.remove();
  }
  return lines.get(number).lastChild;
}

function show(where, plates, note) {
  const strong = plates.map((plate) => {
    const element = document.createElement("strong");
    element.textContent = plate;
    return element;
  });
  const small = document.createElement("small");
  small.textContent = note;
  where.replaceChildren(...strong, small);
}

function told(where, answer, began) {
  const plates = answer.results.map((result) => result.plate);
  const took = `${Math.round(performance.now() - began)} ms`;
  const sure = answer.results.map((result) => `${result.confidence.toFixed(0)} %`).join(", ");
  show(where, plates, plates.length ? `${sure} sure, ${took}` : `no plate was found, ${took}`);
}

// --- the server -------------------------------------------------------------------------------------
class Refused extends Error {}

async function ask(photo) {
  const form = new FormData();
  form.append("image", photo, "photo");
  const words = new URLSearchParams({
    country: "eu",
    camera: localStorage.getItem("camera"),
    secret_key: localStorage.getItem("key") ?? "none",
  });
  const request = { method: "POST", body: form, signal: AbortSignal.timeout(PATIENCE) };
  const response = await fetch(`/v2/recognize?${words}`, request);
  const answer = await response.json();
  if (response.ok) return answer;
  const later = response.status >= 500 || [401, 408].includes(response.status);
  throw later ? new Error(answer.error) : new Refused(answer.error);
}

let sending = false;
let timer = 0;

async function send() {
  if (sending) return;
  sending = true;
  clearTimeout(timer);
  try {
    for (;;) {
      const [number] = await photos("readonly", (store) => store.getAllKeys(null, 1));
      if (number === undefined) break;
      const photo = await photos("readonly", (store) => store.get(number));
      const where = line(number, photo);
      show(where, [], "reading");
      const began = performance.now();
      try {
        told(where, await ask(photo), began);
      } catch (error) {
        if (!(error instanceof Refused)) {
          show(where, [], `waiting: ${error.message}`);
          throw error;
        }
        show(where, [], error.message);
      }
      await photos("readwrite", (store) => store.delete(number));
    }
    find("state").textContent = "all photos are read";
  } catch (error) {
    const left = await photos("readonly", (store) => store.count());
    const why = error instanceof TypeError ? "no connection" : error.message;
    find("state").textContent = `${why}; ${left} waiting`;
    timer = setTimeout(send, AGAIN);
  } finally {
    sending = false;
  }
}

find("photo").addEventListener("change", async (event) => {
  for (const photo of event.target.files) {
    try {
      const number = await photos("readwrite", (store) => store.add(photo));
      show(line(number, photo), [], "waiting");
    } catch (error) {
      find("state").textContent = `this photo can't be kept: ${error.message}`;
      return;
    }
  }
  event.target.value = "";
  send();
});
addEventListener("online", send);

// --- watching: a frame, its answer, the next frame ---------------------------------------------------
let stream = null;

async function watch() {
  const view = find("view");
  const canvas = document.createElement("canvas");
  const item = document.createElement("li");
  const where = document.createElement("div");
  item.append(where);
  find("results").prepend(item);
  while (stream) {
    canvas.width = view.videoWidth;
    canvas.height = view.videoHeight;
    canvas.getContext("2d").drawImage(view, 0, 0);
    const frame = await new Promise((done) => canvas.toBlob(done, "image/jpeg", 0.9));
    const began = performance.now();
    try {
      told(where, await ask(frame), began);
    } catch (error) {
      show(where, [], error.message);
      await new Promise((done) => setTimeout(done, AGAIN));
    }
  }
}

async function toggle() {
  const view = find("view");
  if (stream) {
    stream.getTracks().forEach((track) => track.stop());
    stream = null;
  } else {
    const video = { facingMode: "environment", width: { ideal: 1600 }, height: { ideal: 1200 } };
    try {
      stream = await navigator.mediaDevices.getUserMedia({ video });
    } catch (error) {
      find("state").textContent = `the camera can't be used: ${error.message}`;
      return;
    }
    view.srcObject = stream;
    await view.play();
    watch();
  }
  view.hidden = !stream;
  find("live").textContent = stream ? "Stop watching" : "Watch";
}

// Browsers give the camera, and workers, to pages that came over TLS only.
if (navigator.mediaDevices?.getUserMedia) {
  find("live").hidden = false;
  find("live").addEventListener("click", toggle);
}
if (navigator.serviceWorker) {
  await navigator.serviceWorker.register("/worker.js");
  await navigator.serviceWorker.ready;
  document.documentElement.dataset.offline = "ready";
}
send();
