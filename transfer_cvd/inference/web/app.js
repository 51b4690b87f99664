'use strict';

// Classifies photos in this browser. Pixels go from the photo to the network and nowhere else.

const SHOWN = 5; // classes of a photo, the most probable first
const element = (id) => document.getElementById(id);
let about; // class names and the size the network works at
let session; // the network
let waiting = Promise.resolve(); // one photo after the other

// The squares of pixels that are averaged into one, as `transfer_cvd` does with a large photo.
function squareSide(width, height, imageSize) {
  let side = 1;
  while (Math.floor(Math.min(width, height) / (2 * side)) >= 2 * imageSize) {
    side *= 2;
  }
  return side;
}

// The photo as rows of RGB, from 0 to 255, over white where it is transparent. A large one is averaged over squares,
// strip by strip: all pixels of a telephone's photo at once would need more memory than a telephone gives to a page.
function pixelsOf(bitmap, imageSize) {
  const side = squareSide(bitmap.width, bitmap.height, imageSize);
  const width = Math.ceil(bitmap.width / side);
  const height = Math.ceil(bitmap.height / side);
  const pixels = new Uint8Array(height * width * 3);
  const rowsAtOnce = Math.min(bitmap.height, 32 * side);
  const canvas = new OffscreenCanvas(bitmap.width, rowsAtOnce);
  const context = canvas.getContext('2d', { willReadFrequently: true });
  context.fillStyle = 'white';
  for (let top = 0; top < bitmap.height; top += rowsAtOnce) {
    const rows = Math.min(rowsAtOnce, bitmap.height - top);
    context.fillRect(0, 0, bitmap.width, rows);
    context.drawImage(bitmap, 0, top, bitmap.width, rows, 0, 0, bitmap.width, rows);
    const strip = context.getImageData(0, 0, bitmap.width, rows).data;
    averageSquares(strip, bitmap.width, rows, side, pixels, (top / side) * width * 3);
  }
  return { pixels, width, height };
}

// Write the mean of each square of `side` x `side` RGBA pixels to `target`, from `at` on; the last squares may be cut.
function averageSquares(strip, width, rows, side, target, at) {
  for (let top = 0; top < rows; top += side) {
    const bottom = Math.min(top + side, rows);
    for (let left = 0; left < width; left += side) {
      const right = Math.min(left + side, width);
      let red = 0;
      let green = 0;
      let blue = 0;
      for (let y = top; y < bottom; y++) {
        for (let i = 4 * (y * width + left); i < 4 * (y * width + right); i += 4) {
          red += strip[i];
          green += strip[i + 1];
          blue += strip[i + 2];
        }
      }
      const count = (bottom - top) * (right - left);
      target[at++] = Math.floor(red / count + 0.5);
      target[at++] = Math.floor(green / count + 0.5);
      target[at++] = Math.floor(blue / count + 0.5);
    }
  }
}

// The probability of each class. `source` is a file, or what the camera shows.
async function probabilitiesOf(bitmap) {
  const { pixels, width, height } = pixelsOf(bitmap, about.image_size);
  const photos = new ort.Tensor('uint8', pixels, [1, height, width, 3]);
  const answer = await session.run({ [session.inputNames[0]]: photos });
  return Array.from(answer[session.outputNames[0]].data);
}

function thumbnail(bitmap) {
  const scale = Math.min(1, 480 / Math.max(bitmap.width, bitmap.height));
  const canvas = document.createElement('canvas');
  canvas.width = Math.max(1, Math.round(bitmap.width * scale));
  canvas.height = Math.max(1, Math.round(bitmap.height * scale));
  canvas.getContext('2d').drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  return canvas;
}

function withText(tag, text, className = '') {
  const made = document.createElement(tag);
  made.textContent = text;
  made.className = className;
  return made;
}

function percent(probability) {
  return `${(100 * probability).toFixed(1)} %`;
}

function barsOf(probabilities) {
  const list = document.createElement('dl');
  const order = probabilities.map((_, i) => i).sort((a, b) => probabilities[b] - probabilities[a]);
  for (const i of order.slice(0, SHOWN)) {
    const bar = document.createElement('meter');
    bar.value = probabilities[i];
    bar.setAttribute('aria-hidden', 'true'); // the number says the same
    list.append(withText('dt', about.class_names[i]), withText('dd', percent(probabilities[i])), bar);
  }
  return list;
}

// Classify one photo and show it on a card. A photo that the browser cannot read gets a card that says so.
async function answer(source, name) {
  const card = document.createElement('article');
  card.dataset.name = name;
  try {
    const bitmap = await createImageBitmap(source, { imageOrientation: 'from-image', colorSpaceConversion: 'none' });
    const probabilities = await probabilitiesOf(bitmap);
    const best = probabilities.indexOf(Math.max(...probabilities));
    card.dataset.probabilities = JSON.stringify(probabilities);
    card.append(thumbnail(bitmap), withText('h2', about.class_names[best]), withText('p', name, 'name'));
    card.append(barsOf(probabilities));
    bitmap.close();
  } catch (error) {
    card.dataset.error = String(error);
    card.append(withText('h2', 'Not readable'), withText('p', name, 'name'));
    card.append(withText('p', 'This browser cannot read it as a picture. JPEG, PNG and WebP work everywhere.'));
  }
  element('answers').prepend(card);
}

function answerAll(files) {
  for (const file of files) {
    waiting = waiting.then(() => answer(file, file.name));
  }
}

function prepareDropping() {
  const area = element('drop');
  document.addEventListener('dragover', (event) => {
    event.preventDefault();
    area.classList.add('over');
  });
  document.addEventListener('dragleave', () => area.classList.remove('over'));
  document.addEventListener('drop', (event) => {
    event.preventDefault(); // else the browser would open the photo in place of the page
    area.classList.remove('over');
    answerAll(event.dataTransfer.files);
  });
}

function stopCamera() {
  const video = element('video');
  for (const track of video.srcObject?.getTracks() ?? []) {
    track.stop();
  }
  video.srcObject = null;
  element('viewfinder').hidden = true;
}

async function startCamera() {
  try {
    const video = element('video');
    video.srcObject = await navigator.mediaDevices.getUserMedia({ video: { facingMode: 'environment' } });
    element('viewfinder').hidden = false;
    await video.play();
  } catch (error) {
    element('state').textContent = 'The camera cannot be used: allow it for this page, or choose a photo.';
  }
}

async function shoot() {
  const bitmap = await createImageBitmap(element('video'));
  const time = new Date().toLocaleTimeString();
  waiting = waiting.then(() => answer(bitmap, `Camera, ${time}`));
}

async function prepareOffline() {
  if (!('serviceWorker' in navigator)) {
    return; // the page was not opened by https or from this device
  }
  try {
    await navigator.serviceWorker.register('service-worker.js');
    await navigator.serviceWorker.ready;
    element('offline').textContent = 'Works without a network from now on; it can be installed as an app.';
    document.body.dataset.offline = 'ready';
  } catch (error) {
    element('offline').textContent = 'This browser did not keep the page: it needs its server the next time.';
  }
}

async function start() {
  try {
    about = await (await fetch('classifier.json')).json();
    ort.env.wasm.numThreads = 1; // more need headers that few servers send
    ort.env.logLevel = 'error'; // it warns of the second entry, which is meant
    const options = { executionProviders: ['wasm'], logSeverityLevel: 3 };
    session = await ort.InferenceSession.create('classifier.onnx', options);
  } catch (error) {
    const served = location.protocol !== 'file:';
    element('state').textContent = served
      ? `The classifier could not be loaded (${error.message}).`
      : 'Browsers load a network only from a server. In this folder run: python3 -m http.server';
    return;
  }
  element('state').textContent = '';
  element('choose').disabled = false;
  element('camera').disabled = !navigator.mediaDevices;
  document.body.dataset.state = 'ready';
  await prepareOffline();
}

element('choose').addEventListener('change', (event) => {
  answerAll(event.target.files);
  event.target.value = ''; // so that the same photo may be chosen again
});
element('camera').addEventListener('click', startCamera);
element('shoot').addEventListener('click', shoot);
element('stop').addEventListener('click', stopCamera);
prepareDropping();
start();
