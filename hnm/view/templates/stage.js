// A stage shows a Deep Zoom picture and tells where it lies: view() gives {x, y, scale}, screen = picture * scale + (x, y).
// With OpenSeadragon where it is, else with a plain one of ours.
const tileUrl = (base, level, column, row) => `${base}/${level}/${column}_${row}.jpg`;

const fitting = (element, ground) => Math.min(element.clientWidth / ground.width, element.clientHeight / ground.height);
const highest = (element, ground) => Math.max(6, 8 * fitting(element, ground));  // screen pixels a picture pixel may be wide

const openSeadragonStage = (element, ground, base, on) => {
  const viewer = OpenSeadragon({
    element, showNavigationControl: false, drawer: "canvas",
    showNavigator: element.clientWidth > 600, navigatorPosition: "BOTTOM_RIGHT", navigatorBackground: "#fff",
    animationTime: 0.5, maxZoomPixelRatio: highest(element, ground), minZoomImageRatio: 0.7, gestureSettingsMouse: {clickToZoom: false},
    gestureSettingsTouch: {clickToZoom: false, dblClickToZoom: true}, gestureSettingsPen: {clickToZoom: false},
    tileSources: {
      width: ground.width, height: ground.height, tileSize: ground.tile, tileOverlap: ground.overlap, minLevel: 0,
      maxLevel: ground.last, getTileUrl: (level, column, row) => tileUrl(base, level, column, row),
    },
  });
  viewer.addHandler("canvas-key", event => { event.preventDefaultAction = true; });
  viewer.addHandler("open", on.ready);
  for (const name of ["update-viewport", "resize"]) viewer.addHandler(name, on.moved);
  const at = (x, y) => viewer.viewport.imageToViewerElementCoordinates(new OpenSeadragon.Point(x, y));
  viewer.addHandler("canvas-click", event => { if (event.quick) on.clicked(event.position.x, event.position.y); });
  const rectangle = (x, y, side) => viewer.viewport.imageToViewportRectangle(x - side / 2, y - side / 2, side, side);
  return {
    view: () => {
      const origin = at(0, 0), far = at(ground.width, 0);
      return {x: origin.x, y: origin.y, scale: (far.x - origin.x) / ground.width};
    },
    flyTo: (x, y, side) => viewer.viewport.fitBounds(rectangle(x, y, side)),
    zoom: factor => { viewer.viewport.zoomBy(factor); viewer.viewport.applyConstraints(); },
    home: () => viewer.viewport.goHome(),
  };
};

const plainStage = (element, ground, base, on) => {
  const canvas = document.createElement("canvas"), ink = canvas.getContext("2d"), tiles = new Map(), MOST_KEPT = 600;
  element.append(canvas);
  let x = 0, y = 0, scale = 1, asked = false;
  const tile = (level, column, row) => {
    const url = tileUrl(base, level, column, row);
    if (!tiles.has(url)) {
      if (tiles.size >= MOST_KEPT) tiles.delete(tiles.keys().next().value);
      const image = new Image();
      image.onload = ask;
      image.src = url;
      tiles.set(url, image);
    }
    return tiles.get(url);
  };
  const drawLevel = level => {
    const size = 2 ** (ground.last - level), step = ground.tile * size;  // picture pixels of a level's pixel, of a tile
    const last = side => Math.ceil(side / step) - 1, clamp = (value, side) => Math.max(0, Math.min(last(side), Math.floor(value)));
    const left = clamp(-x / scale / step, ground.width), right = clamp((element.clientWidth - x) / scale / step, ground.width);
    const top = clamp(-y / scale / step, ground.height), bottom = clamp((element.clientHeight - y) / scale / step, ground.height);
    for (let row = top; row <= bottom; row++) for (let column = left; column <= right; column++) {
      const image = tile(level, column, row);
      if (!image.complete || !image.naturalWidth) continue;
      const at = [column, row].map(place => place * step - (place ? ground.overlap * size : 0));
      ink.drawImage(image, x + at[0] * scale, y + at[1] * scale, image.naturalWidth * size * scale, image.naturalHeight * size * scale);
    }
  };
  const draw = () => {
    asked = false;
    const ratio = window.devicePixelRatio || 1;
    canvas.width = element.clientWidth * ratio;
    canvas.height = element.clientHeight * ratio;
    ink.setTransform(ratio, 0, 0, ratio, 0, 0);
    const level = Math.max(0, Math.min(ground.last, Math.ceil(ground.last + Math.log2(scale))));
    for (const shown of new Set([Math.min(level, 8), Math.max(0, level - 2), level])) drawLevel(shown);  // coarse below fine
    on.moved();
  };
  const ask = () => { if (!asked) { asked = true; requestAnimationFrame(draw); } };
  const zoomAt = (factor, atX, atY) => {
    const most = highest(element, ground), least = 0.5 * fitting(element, ground);
    const next = Math.max(least, Math.min(most, scale * factor));
    x = atX - (atX - x) * next / scale;
    y = atY - (atY - y) * next / scale;
    scale = next;
    ask();
  };
  const flyTo = (centreX, centreY, width, height = width) => {
    scale = Math.min(highest(element, ground), element.clientWidth / width, element.clientHeight / height);
    x = element.clientWidth / 2 - centreX * scale;
    y = element.clientHeight / 2 - centreY * scale;
    ask();
  };
  const home = () => flyTo(ground.width / 2, ground.height / 2, ground.width, ground.height);
  const pointers = new Map();
  let moved = 0;
  element.addEventListener("wheel", event => {
    event.preventDefault();
    const box = element.getBoundingClientRect();
    zoomAt(1.002 ** -event.deltaY, event.clientX - box.left, event.clientY - box.top);
  }, {passive: false});
  element.addEventListener("pointerdown", event => {
    element.setPointerCapture(event.pointerId);
    if (!pointers.size) moved = 0;
    pointers.set(event.pointerId, [event.clientX, event.clientY]);
  });
  element.addEventListener("pointermove", event => {
    const before = pointers.get(event.pointerId);
    if (!before) return;
    const now = [event.clientX, event.clientY], other = [...pointers].find(([id]) => id !== event.pointerId)?.[1];
    pointers.set(event.pointerId, now);
    moved += Math.hypot(now[0] - before[0], now[1] - before[1]);
    if (other) {
      const apart = at => Math.hypot(at[0] - other[0], at[1] - other[1]), box = element.getBoundingClientRect();
      zoomAt(apart(now) / Math.max(1, apart(before)), other[0] - box.left, other[1] - box.top);
      return;
    }
    x += now[0] - before[0];
    y += now[1] - before[1];
    ask();
  });
  element.addEventListener("pointerup", event => {
    const was = pointers.delete(event.pointerId), box = element.getBoundingClientRect();
    if (was && !pointers.size && moved < 5) on.clicked(event.clientX - box.left, event.clientY - box.top);
  });
  element.addEventListener("pointercancel", event => pointers.delete(event.pointerId));
  new ResizeObserver(ask).observe(element);
  home();
  setTimeout(on.ready);
  return {view: () => ({x, y, scale}), flyTo, zoom: factor => zoomAt(factor, element.clientWidth / 2, element.clientHeight / 2), home};
};
