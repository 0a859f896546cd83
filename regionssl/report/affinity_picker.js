"use strict";
(() => {
  const root = document.getElementById("affinity");
  if (!root) return;
  const data = JSON.parse(document.getElementById("affinity-data").textContent);
  const byId = (name) => document.getElementById(`affinity-${name}`);
  const canvases = [byId("view1"), byId("view2")];
  const [network, image, said] = [byId("network"), byId("image"), byId("said")];
  const pictures = data.images.map(({ views }) => views.map((source) => {
    const picture = new Image();
    picture.onload = draw;
    picture.src = source;
    return picture;
  }));
  const tables = new Map();
  const point = { view: 0, cell: data.images[0].first };

  function table(number) {
    const key = `${network.value} ${image.value} ${number}`;
    if (!tables.has(key)) {
      const bytes = Uint8Array.from(atob(data.networks[network.value][image.value][number]), (c) => c.charCodeAt(0));
      tables.set(key, new Int8Array(bytes.buffer));
    }
    return tables.get(key);
  }

  function similarities(other) {
    const count = data.images[image.value].side ** 2;
    const values = table(point.view === other ? point.view : 2);
    const across = point.view === 1 && other === 0;
    return Array.from({ length: count }, (_, i) =>
      values[across ? i * count + point.cell : point.cell * count + i] / data.levels);
  }

  function colour(share) {
    const place = Math.min(Math.max(share, 0), 1) * (data.heat.length - 1);
    const step = Math.min(Math.floor(place), data.heat.length - 2);
    return [0, 1, 2].map((i) => data.heat[step][i] + (place - step) * (data.heat[step + 1][i] - data.heat[step][i]));
  }

  function drawView(view, values, low, high) {
    const { side, places } = data.images[image.value];
    const canvas = canvases[view];
    const context = canvas.getContext("2d");
    const cells = new OffscreenCanvas(side, side);
    const pixels = new ImageData(side, side);
    values.forEach((value, i) => pixels.data.set([...colour((value - low) / Math.max(high - low, 1e-9)), 255], 4 * i));
    cells.getContext("2d").putImageData(pixels, 0, 0);
    context.globalAlpha = 1;
    context.filter = "grayscale(1)";
    context.drawImage(pictures[image.value][view], 0, 0, canvas.width, canvas.height);
    context.filter = "none";
    context.globalAlpha = data.cover;
    context.drawImage(cells, 0, 0, canvas.width, canvas.height);
    context.globalAlpha = 1;
    const cell = canvas.width / side;
    if (view === point.view) {
      outline(context, () => context.rect((point.cell % side) * cell, Math.floor(point.cell / side) * cell, cell, cell));
    } else if (places[point.view][point.cell]) {
      const [x, y] = places[point.view][point.cell];
      outline(context, () => context.arc(x * canvas.width, y * canvas.height, 0.6 * cell, 0, 2 * Math.PI));
    }
  }

  function outline(context, shape) {
    for (const [style, width] of [["#000", 5], ["#fff", 2.5]]) {
      context.beginPath();
      shape();
      context.strokeStyle = style;
      context.lineWidth = width;
      context.stroke();
    }
  }

  function draw() {
    if (!pictures[image.value].every((picture) => picture.complete)) return;
    const { side, places } = data.images[image.value];
    const found = [0, 1].map(similarities);
    const compared = found.map((values, view) => values.filter((_, i) => view !== point.view || i !== point.cell));
    const low = Math.min(...compared.flat());
    const high = Math.max(...compared.flat());
    found.forEach((values, view) => drawView(view, values, low, high));
    const other = found[1 - point.view];
    const best = other.indexOf(Math.max(...other));
    const name = (cell) => `row ${Math.floor(cell / side) + 1}, column ${(cell % side) + 1}`;
    const place = places[point.view][point.cell];
    const own = place && Math.min(Math.floor(place[1] * side), side - 1) * side + Math.min(Math.floor(place[0] * side), side - 1);
    said.textContent = `Point: view ${point.view + 1}, ${name(point.cell)}. Most alike in view ${2 - point.view}: ${name(best)} ` +
      `(${other[best].toFixed(2)}). ` + (place ? `The same place there (ring): ${name(own)} (${other[own].toFixed(2)}).`
        : "The other view does not hold this place.") + ` Colours from ${low.toFixed(2)} to ${high.toFixed(2)}.`;
  }

  function pick(view, column, row) {
    const { side } = data.images[image.value];
    const within = (value) => Math.min(Math.max(value, 0), side - 1);
    point.view = view;
    point.cell = within(row) * side + within(column);
    draw();
  }

  const moves = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
  canvases.forEach((canvas, view) => {
    canvas.addEventListener("click", (event) => {
      const { side } = data.images[image.value];
      const box = canvas.getBoundingClientRect();
      pick(view, ...[(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height]
        .map((share) => Math.floor(share * side)));
    });
    canvas.addEventListener("keydown", (event) => {
      const move = moves[event.key];
      if (!move) return;
      event.preventDefault();
      const { side } = data.images[image.value];
      const from = point.view === view ? [0, 0] : move.map((step) => -step);
      pick(view, (point.cell % side) + move[0] + from[0], Math.floor(point.cell / side) + move[1] + from[1]);
    });
  });
  network.addEventListener("change", draw);
  image.addEventListener("change", () => {
    Object.assign(point, { view: 0, cell: data.images[image.value].first });
    draw();
  });
  root.hidden = false;
  draw();
})();
