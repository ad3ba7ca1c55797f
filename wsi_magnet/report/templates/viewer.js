"use strict";
// The figure: layers on one grid, drawn on a canvas that zooms and moves. Everything comes from the page itself.
(() => {
  const data = JSON.parse(document.getElementById("viewer-data").textContent);
  const viewer = document.getElementById("viewer");
  const controls = document.getElementById("viewer-controls");
  const canvas = viewer.querySelector("canvas");
  const context = canvas.getContext("2d");
  const { width, height } = data;
  const NONE = 0, MOST_ZOOM = 24, STEP = 1.4, LINE_PX = 100;
  const RAMP = [[255, 255, 255, 0], [255, 209, 102, 150], [209, 73, 91, 230], [61, 26, 120, 255]];

  const layer = Object.assign(document.createElement("canvas"), { width, height });
  // zoom: CSS pixels a picture pixel; (x, y) is in the middle; whole: all of it stays in view when the window changes.
  const view = { zoom: 1, x: width / 2, y: height / 2, whole: true };
  const images = {};
  let labels, edges, doubt, refined, refinedWidth;

  const load = (uri) => new Promise((resolve, reject) => {
    if (!uri) return resolve(null);
    const image = new Image();
    image.onload = () => resolve(image);
    image.onerror = () => reject(new Error("a picture of this page is damaged"));
    image.src = uri;
  });

  // Grey pictures hold values: one byte of each pixel is enough.
  const values = (image) => {
    const part = Object.assign(document.createElement("canvas"), { width: image.width, height: image.height });
    const reader = part.getContext("2d", { willReadFrequently: true });
    reader.drawImage(image, 0, 0);
    const rgba = reader.getImageData(0, 0, image.width, image.height).data;
    return Uint8Array.from({ length: rgba.length / 4 }, (_, i) => rgba[4 * i]);
  };

  // 1 where a pixel touches another label: outlines two pixels wide.
  const outlines = () => {
    const found = new Uint8Array(labels.length);
    for (let y = 0, i = 0; y < height; y++) {
      for (let x = 0; x < width; x++, i++) {
        if (x + 1 < width && labels[i] !== labels[i + 1]) found[i] = found[i + 1] = 1;
        if (y + 1 < height && labels[i] !== labels[i + width]) found[i] = found[i + width] = 1;
      }
    }
    return found;
  };

  const chosen = (name) => controls.elements[name].value;
  const opacity = () => Number(controls.elements.opacity.value) / 100;
  const shown = () => new Set([...document.querySelectorAll('input[name="class"]:checked')].map((box) => Number(box.value)));

  const table = (colors, wanted) => {
    const rgba = new Uint32Array(256);
    const bytes = new Uint8Array(rgba.buffer);
    for (const [value, [r, g, b]] of Object.entries(colors)) {
      if (!wanted || wanted.has(Number(value))) bytes.set([r, g, b, 255], 4 * value);
    }
    return rgba;
  };

  const rampTable = () => {
    const rgba = new Uint32Array(256);
    const bytes = new Uint8Array(rgba.buffer);
    for (let value = 0; value < 256; value++) {
      const at = (value / 255) * (RAMP.length - 1), low = Math.min(Math.floor(at), RAMP.length - 2);
      bytes.set(RAMP[low].map((from, i) => from + (RAMP[low + 1][i] - from) * (at - low)), 4 * value);
    }
    return rgba;
  };

  const colourOf = {
    classes: () => {
      const colors = table(data.colors, shown()), outline = chosen("style") === "outline";
      return (i) => (outline && !edges[i] ? NONE : colors[labels[i]]);
    },
    uncertainty: () => {
      const colors = rampTable();
      return (i) => (labels[i] ? colors[doubt[i]] : NONE);
    },
    refined: () => {
      const colors = table(data.scales), faint = new Uint32Array(colors);
      new Uint8Array(faint.buffer).forEach((_, i, bytes) => { if (i % 4 === 3) bytes[i] *= 0.4; });
      const column = Uint16Array.from({ length: width }, (_, x) => x / data.cell);
      // Cells are drawn in full on tissue, and faintly on the glass that they hold besides.
      return (i) => (labels[i] ? colors : faint)[refined[Math.floor(Math.floor(i / width) / data.cell) * refinedWidth + column[i % width]]];
    },
  };

  const paint = () => {
    const name = chosen("layer"), brush = layer.getContext("2d");
    brush.clearRect(0, 0, width, height);
    if (colourOf[name]) {
      const picture = brush.createImageData(width, height);
      const pixels = new Uint32Array(picture.data.buffer), colour = colourOf[name]();
      for (let i = 0; i < pixels.length; i++) pixels[i] = colour(i);
      brush.putImageData(picture, 0, 0);
    }
    for (const legend of document.querySelectorAll("[data-legend]")) legend.hidden = legend.dataset.legend !== name;
    controls.querySelector('[data-of="style"]').hidden = name !== "classes";
    controls.querySelector(".range").hidden = !colourOf[name];
    draw();
  };

  const fitting = () => Math.min(canvas.clientWidth / width, canvas.clientHeight / height) || 1;

  const clamp = (value, low, high) => Math.min(Math.max(value, low), high);

  const keepInside = () => {
    if (view.whole) view.zoom = fitting();
    view.zoom = clamp(view.zoom, fitting(), Math.max(MOST_ZOOM, fitting()));
    for (const [axis, length, room] of [["x", width, canvas.clientWidth], ["y", height, canvas.clientHeight]]) {
      const half = room / view.zoom / 2;
      view[axis] = half * 2 >= length ? length / 2 : clamp(view[axis], half, length - half);
    }
  };

  const draw = () => {
    const ratio = window.devicePixelRatio || 1, { clientWidth: w, clientHeight: h } = canvas;
    if (canvas.width !== Math.round(w * ratio) || canvas.height !== Math.round(h * ratio)) {
      canvas.width = Math.round(w * ratio);
      canvas.height = Math.round(h * ratio);
    }
    keepInside();
    const scale = view.zoom * ratio;
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.clearRect(0, 0, canvas.width, canvas.height);
    context.setTransform(scale, 0, 0, scale, canvas.width / 2 - view.x * scale, canvas.height / 2 - view.y * scale);
    context.imageSmoothingEnabled = scale < 2;
    context.imageSmoothingQuality = "high";
    context.globalAlpha = 1;
    if (images.slide) {
      context.drawImage(images.slide, 0, 0, width, height);
    } else {
      context.fillStyle = "#f3f3f3";
      context.fillRect(0, 0, width, height);
    }
    // Outlines cover little, so they are drawn stronger than areas.
    const thin = chosen("layer") === "classes" && chosen("style") === "outline";
    context.globalAlpha = thin ? 1 - (1 - opacity()) ** 3 : opacity();
    context.drawImage(layer, 0, 0);
    context.globalAlpha = 1;
    // A finger scrolls the page as long as there is nothing to move; two always zoom.
    canvas.style.touchAction = view.whole ? "pan-y" : "none";
    canvas.dataset.zoom = (view.zoom / fitting()).toFixed(3);
    scaleBar();
  };

  const scaleBar = () => {
    const wanted = (LINE_PX * data.mpp) / view.zoom, power = 10 ** Math.floor(Math.log10(wanted));
    const um = power * [5, 2, 1].find((step) => step * power <= wanted * 1.0001);
    viewer.querySelector(".rule").style.width = `${(um / data.mpp) * view.zoom}px`;
    viewer.querySelector(".length").textContent = um >= 1000 ? `${um / 1000} mm` : `${Number(um.toPrecision(1))} µm`;
  };

  // Zoom by a factor so that the picture's point under (x, y) on the canvas stays there.
  const zoomAt = (factor, x = canvas.clientWidth / 2, y = canvas.clientHeight / 2) => {
    const before = view.zoom, dx = x - canvas.clientWidth / 2, dy = y - canvas.clientHeight / 2;
    view.zoom = clamp(before * factor, fitting(), Math.max(MOST_ZOOM, fitting()));
    view.whole = view.zoom <= fitting();
    view.x += dx / before - dx / view.zoom;
    view.y += dy / before - dy / view.zoom;
    draw();
  };

  const move = (dx, dy) => {
    view.x -= dx / view.zoom;
    view.y -= dy / view.zoom;
    draw();
  };

  const fit = () => {
    view.whole = true;
    draw();
  };

  const place = (event) => {
    const box = canvas.getBoundingClientRect();
    return [event.clientX - box.left, event.clientY - box.top];
  };

  const tellUnder = (event) => {
    const [px, py] = place(event);
    const x = Math.floor(view.x + (px - canvas.clientWidth / 2) / view.zoom);
    const y = Math.floor(view.y + (py - canvas.clientHeight / 2) / view.zoom);
    const inside = x >= 0 && y >= 0 && x < width && y < height;
    viewer.querySelector(".under").textContent = inside ? data.names[labels[y * width + x]] || "" : "";
  };

  const fingers = new Map();
  const span = () => {
    const [[ax, ay], [bx, by]] = fingers.values();
    return { length: Math.hypot(ax - bx, ay - by), x: (ax + bx) / 2, y: (ay + by) / 2 };
  };

  canvas.addEventListener("pointerdown", (event) => {
    canvas.setPointerCapture(event.pointerId);
    fingers.set(event.pointerId, place(event));
  });
  canvas.addEventListener("pointermove", (event) => {
    tellUnder(event);
    const last = fingers.get(event.pointerId);
    if (!last) return;
    const before = fingers.size === 2 ? span() : null, [x, y] = place(event);
    fingers.set(event.pointerId, [x, y]);
    if (fingers.size === 1) move(x - last[0], y - last[1]);
    if (before) {
      const now = span();
      move(now.x - before.x, now.y - before.y);
      zoomAt(now.length / Math.max(before.length, 1), now.x, now.y);
    }
  });
  for (const name of ["pointerup", "pointercancel"]) canvas.addEventListener(name, (e) => fingers.delete(e.pointerId));
  canvas.addEventListener("pointerleave", () => { viewer.querySelector(".under").textContent = ""; });
  canvas.addEventListener("wheel", (event) => {
    // All of the slide is shown and smaller it does not get: the page scrolls on.
    if (event.deltaY > 0 && view.zoom <= fitting() * 1.001) return;
    event.preventDefault();
    zoomAt(Math.exp(-clamp(event.deltaY * (event.deltaMode ? 30 : 1), -200, 200) / 400), ...place(event));
  }, { passive: false });
  canvas.addEventListener("dblclick", (event) => zoomAt(2, ...place(event)));
  canvas.addEventListener("keydown", (event) => {
    const keys = {
      "+": () => zoomAt(STEP), "=": () => zoomAt(STEP), "-": () => zoomAt(1 / STEP), "0": fit,
      ArrowLeft: () => move(60, 0), ArrowRight: () => move(-60, 0),
      ArrowUp: () => move(0, 60), ArrowDown: () => move(0, -60),
    };
    if (event.ctrlKey || event.metaKey || event.altKey || !keys[event.key]) return;
    event.preventDefault();
    keys[event.key]();
  });
  const doing = { in: () => zoomAt(STEP), out: () => zoomAt(1 / STEP), fit };
  for (const button of viewer.querySelectorAll("[data-do]")) button.addEventListener("click", doing[button.dataset.do]);
  controls.addEventListener("submit", (event) => event.preventDefault());
  controls.addEventListener("input", (event) => (event.target.name === "opacity" ? draw() : paint()));
  for (const box of document.querySelectorAll('input[name="class"]')) box.addEventListener("change", paint);
  new ResizeObserver(draw).observe(canvas);

  Promise.all([data.slide, data.labels, data.uncertainty, data.refined].map(load)).then(([slide, mask, unsure, cells]) => {
    images.slide = slide;
    labels = values(mask);
    edges = outlines();
    doubt = unsure && values(unsure);
    refined = values(cells);
    refinedWidth = cells.width;
    document.documentElement.classList.add("live");
    canvas.style.aspectRatio = `${width} / ${height}`;
    paint();
    fit();
    canvas.dataset.ready = "yes";
  });
})();
