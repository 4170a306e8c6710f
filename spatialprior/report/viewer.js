// Turns point clouds and camera frusta in the page: WebGL, or a 2D canvas where there is none. Requests nothing.
// One viewer for each [data-viewer]; its content is the JSON beside the canvas (see scene_viewer.py).
"use strict";
(() => {
  const START = { yaw: -0.45, pitch: 0.35, zoom: 1, target: [0, 0, 0] };
  const FOCAL = 1 / Math.tan(0.4); // vertical field of view 0.8 rad
  const TINT = 0.75; // share of a cloud's own colour where points are tinted
  const DISTANCE = 3.4; // of the eye from the target at zoom 1, scene radii

  const bytes = (text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0));

  function decode(data) {
    return data.layers.map((layer) => {
      const buffer = bytes(layer.positions).buffer;
      const points = layer.kind === "points";
      return {
        points,
        on: layer.on,
        tint: layer.tint.map((c) => c / 255),
        // Arrays are little-endian, as every machine with a browser is.
        positions: points ? new Uint16Array(buffer) : new Float32Array(buffer),
        colours: points ? bytes(layer.colours) : null,
      };
    });
  }

  // Turn about the target, first y then x; the rows of the rotation are the screen's right, up and back.
  function axes(view) {
    const [cy, sy, cp, sp] = [Math.cos(view.yaw), Math.sin(view.yaw), Math.cos(view.pitch), Math.sin(view.pitch)];
    return [[cy, 0, sy], [sp * sy, cp, -sp * cy], [-cp * sy, sp, cp * cy]];
  }

  // Projection times view, column-major. Narrow canvases see as much sideways as wide ones do upwards.
  function matrix(view, radius, aspect) {
    const distance = DISTANCE * radius * view.zoom;
    const [near, far] = [0.02 * distance, distance + 12 * radius];
    const focal = FOCAL * Math.min(1, aspect);
    const [right, up, back] = axes(view);
    const shift = (axis) => -(axis[0] * view.target[0] + axis[1] * view.target[1] + axis[2] * view.target[2]);
    const a = (near + far) / (near - far), b = (2 * near * far) / (near - far);
    const depth = shift(back) - distance;
    const m = new Float32Array(16);
    for (let i = 0; i < 3; i++) {
      m[4 * i] = (focal / aspect) * right[i];
      m[4 * i + 1] = focal * up[i];
      m[4 * i + 2] = a * back[i];
      m[4 * i + 3] = -back[i];
    }
    m.set([(focal / aspect) * shift(right), focal * shift(up), a * depth + b, -depth], 12);
    return m;
  }

  function webgl(canvas, layers, extent) {
    const gl = canvas.getContext("webgl", { alpha: true, antialias: true, preserveDrawingBuffer: true });
    if (!gl) return null;
    const compile = (kind, source) => {
      const shader = gl.createShader(kind);
      gl.shaderSource(shader, source);
      gl.compileShader(shader);
      return shader;
    };
    let at;
    const setUp = () => {
      const program = gl.createProgram();
      gl.attachShader(program, compile(gl.VERTEX_SHADER, `
        attribute vec3 position; attribute vec3 colour;
        uniform mat4 camera; uniform float scale, offset, size, least; varying vec3 shade;
        void main() {
          gl_Position = camera * vec4(position * scale + offset, 1.0);
          gl_PointSize = max(least, size / gl_Position.w);
          shade = colour;
        }`));
      gl.attachShader(program, compile(gl.FRAGMENT_SHADER, `
        precision mediump float; varying vec3 shade; uniform vec3 tint; uniform float share;
        void main() { gl_FragColor = vec4(mix(shade, tint, share), 1.0); }`));
      gl.linkProgram(program);
      gl.useProgram(program);
      at = { position: gl.getAttribLocation(program, "position"), colour: gl.getAttribLocation(program, "colour") };
      for (const name of ["camera", "scale", "offset", "size", "least", "tint", "share"])
        at[name] = gl.getUniformLocation(program, name);
      for (const layer of layers) {
        const fill = (array) => {
          const buffer = gl.createBuffer();
          gl.bindBuffer(gl.ARRAY_BUFFER, buffer);
          gl.bufferData(gl.ARRAY_BUFFER, array, gl.STATIC_DRAW);
          return buffer;
        };
        layer.buffers = { position: fill(layer.positions), colour: layer.points ? fill(layer.colours) : null };
      }
      gl.enable(gl.DEPTH_TEST);
      gl.enableVertexAttribArray(at.position);
    };
    setUp();
    canvas.addEventListener("webglcontextlost", (event) => event.preventDefault());
    canvas.addEventListener("webglcontextrestored", () => { setUp(); canvas.dispatchEvent(new Event("redraw")); });
    return (camera, size, least, share) => {
      gl.viewport(0, 0, canvas.width, canvas.height);
      gl.clearColor(0, 0, 0, 0);
      gl.clear(gl.COLOR_BUFFER_BIT | gl.DEPTH_BUFFER_BIT);
      gl.uniformMatrix4fv(at.camera, false, camera);
      gl.uniform1f(at.size, size);
      gl.uniform1f(at.least, least);
      for (const layer of layers.filter((l) => l.on)) {
        gl.uniform3fv(at.tint, layer.tint);
        gl.uniform1f(at.share, layer.points ? share : 1);
        gl.uniform1f(at.scale, layer.points ? 2 * extent : 1);
        gl.uniform1f(at.offset, layer.points ? -extent : 0);
        gl.bindBuffer(gl.ARRAY_BUFFER, layer.buffers.position);
        // Normalised: 0 ... 65535 arrives as 0 ... 1.
        gl.vertexAttribPointer(at.position, 3, layer.points ? gl.UNSIGNED_SHORT : gl.FLOAT, layer.points, 0, 0);
        if (layer.points) {
          gl.enableVertexAttribArray(at.colour);
          gl.bindBuffer(gl.ARRAY_BUFFER, layer.buffers.colour);
          gl.vertexAttribPointer(at.colour, 3, gl.UNSIGNED_BYTE, true, 0, 0);
        } else {
          gl.disableVertexAttribArray(at.colour);
          gl.vertexAttrib3f(at.colour, 0, 0, 0);
        }
        gl.drawArrays(layer.points ? gl.POINTS : gl.LINES, 0, layer.positions.length / 3);
      }
    };
  }

  function flat(canvas, layers, extent) {
    const context = canvas.getContext("2d");
    if (!context) return null;
    return (m, size, least, share) => {
      const { width, height } = canvas;
      const image = context.createImageData(width, height);
      const nearest = new Float32Array(width * height).fill(Infinity);
      const place = (x, y, z) => {
        const w = m[3] * x + m[7] * y + m[11] * z + m[15];
        return [((m[0] * x + m[4] * y + m[8] * z + m[12]) / w + 1) * width / 2,
          (1 - (m[1] * x + m[5] * y + m[9] * z + m[13]) / w) * height / 2, w];
      };
      for (const { positions: p, colours, tint } of layers.filter((l) => l.on && l.points)) {
        for (let i = 0; i < p.length; i += 3) {
          const [x, y, w] = place(...[0, 1, 2].map((k) => (p[i + k] / 65535 * 2 - 1) * extent));
          if (w <= 0) continue;
          const side = Math.round(Math.min(Math.max(least, size / w), 24));
          const [left, top] = [Math.round(x - side / 2), Math.round(y - side / 2)];
          for (let row = Math.max(top, 0); row < Math.min(top + side, height); row++)
            for (let column = Math.max(left, 0); column < Math.min(left + side, width); column++) {
              const at = row * width + column;
              if (w >= nearest[at]) continue;
              nearest[at] = w;
              for (let k = 0; k < 3; k++)
                image.data[4 * at + k] = (1 - share) * colours[i + k] + share * 255 * tint[k];
              image.data[4 * at + 3] = 255;
            }
        }
      }
      context.putImageData(image, 0, 0);
      context.lineWidth = least;
      for (const { positions: p, tint } of layers.filter((l) => l.on && !l.points)) {
        context.strokeStyle = `rgb(${tint.map((c) => Math.round(255 * c)).join(",")})`;
        context.beginPath();
        for (let i = 0; i < p.length; i += 6) {
          const [a, b] = [place(p[i], p[i + 1], p[i + 2]), place(p[i + 3], p[i + 4], p[i + 5])];
          if (a[2] <= 0 || b[2] <= 0) continue;
          context.moveTo(a[0], a[1]);
          context.lineTo(b[0], b[1]);
        }
        context.stroke();
      }
    };
  }

  function start(figure) {
    const canvas = figure.querySelector("canvas");
    const data = JSON.parse(figure.querySelector("script").textContent);
    const layers = decode(data);
    const gl = webgl(canvas, layers, data.extent);
    const draw = gl || flat(canvas, layers, data.extent);
    if (!draw) return;
    const view = { ...START };
    let tinted = false, waiting = false;

    const paint = () => {
      waiting = false;
      const dense = Math.min(window.devicePixelRatio || 1, 2);
      canvas.width = Math.max(1, Math.round(canvas.clientWidth * dense));
      canvas.height = Math.max(1, Math.round(canvas.clientHeight * dense));
      const aspect = canvas.width / canvas.height;
      const size = canvas.height * FOCAL * Math.min(1, aspect) / 2 * data.radius / 60;
      draw(matrix(view, data.radius, aspect), size, 1.5 * dense, tinted ? TINT : 0);
      figure.dataset.viewer = gl ? "webgl" : "2d";
    };
    const redraw = () => { if (!waiting) { waiting = true; requestAnimationFrame(paint); } };
    const turn = (yaw, pitch) => {
      view.yaw += yaw;
      view.pitch = Math.min(Math.max(view.pitch + pitch, -1.55), 1.55);
      redraw();
    };
    const zoom = (factor) => { view.zoom = Math.min(Math.max(view.zoom * factor, 0.05), 5); redraw(); };
    const move = (x, y) => { // pixels; what lies at the target follows the finger
      const [right, up] = axes(view);
      const metres = 2 * DISTANCE * data.radius * view.zoom / (FOCAL * Math.min(canvas.clientWidth, canvas.clientHeight));
      view.target = view.target.map((t, i) => t + metres * (y * up[i] - x * right[i]));
      redraw();
    };
    const reset = () => { Object.assign(view, START); redraw(); };

    const fingers = new Map();
    const spread = () => {
      const [a, b] = [...fingers.values()];
      return { x: (a.x + b.x) / 2, y: (a.y + b.y) / 2, apart: Math.hypot(a.x - b.x, a.y - b.y) };
    };
    canvas.addEventListener("pointerdown", (event) => {
      canvas.setPointerCapture(event.pointerId);
      canvas.focus({ preventScroll: true });
      fingers.set(event.pointerId, { x: event.clientX, y: event.clientY });
    });
    canvas.addEventListener("pointermove", (event) => {
      const last = fingers.get(event.pointerId);
      if (!last) return;
      const before = fingers.size === 2 ? spread() : null;
      const now = { x: event.clientX, y: event.clientY };
      fingers.set(event.pointerId, now);
      if (before) {
        const after = spread();
        zoom(before.apart / Math.max(after.apart, 1));
        move(after.x - before.x, after.y - before.y);
      } else if (fingers.size === 1) {
        if (event.shiftKey || event.buttons === 2) move(now.x - last.x, now.y - last.y);
        else turn((now.x - last.x) * 0.008, (now.y - last.y) * 0.008);
      }
    });
    for (const name of ["pointerup", "pointercancel"])
      canvas.addEventListener(name, (event) => fingers.delete(event.pointerId));
    canvas.addEventListener("contextmenu", (event) => event.preventDefault());
    // Only with the focus (or a pinch on a touchpad, which comes as ctrl): the page must still scroll past.
    canvas.addEventListener("wheel", (event) => {
      if (document.activeElement !== canvas && !event.ctrlKey) return;
      event.preventDefault();
      const lines = event.deltaMode === 1 ? 16 : 1;
      zoom(Math.exp(Math.min(Math.max(event.deltaY * lines, -200), 200) * (event.ctrlKey ? 0.01 : 0.0015)));
    }, { passive: false });
    canvas.addEventListener("keydown", (event) => {
      if (event.ctrlKey || event.metaKey || event.altKey) return;
      const act = (dx, dy) => (event.shiftKey ? move(-240 * dx, -240 * dy) : turn(dx, dy));
      const keys = {
        ArrowLeft: () => act(0.1, 0), ArrowRight: () => act(-0.1, 0),
        ArrowUp: () => act(0, 0.1), ArrowDown: () => act(0, -0.1),
        "+": () => zoom(0.9), "=": () => zoom(0.9), "-": () => zoom(1 / 0.9), Home: reset, r: reset,
      };
      if (!Object.hasOwn(keys, event.key)) return;
      event.preventDefault();
      keys[event.key]();
    });
    for (const box of figure.querySelectorAll("input[data-layer]")) {
      layers[box.dataset.layer].on = box.checked; // a reloaded page may remember other ticks
      box.addEventListener("change", () => { layers[box.dataset.layer].on = box.checked; redraw(); });
    }
    const tint = figure.querySelector("input[data-tint]");
    tinted = tint.checked;
    tint.addEventListener("change", () => { tinted = tint.checked; redraw(); });
    const actions = { reset, nearer: () => zoom(0.8), further: () => zoom(1.25) };
    for (const button of figure.querySelectorAll("button[data-do]"))
      button.addEventListener("click", actions[button.dataset.do]);
    canvas.addEventListener("redraw", redraw);
    new ResizeObserver(redraw).observe(canvas);
    redraw();
  }

  for (const figure of document.querySelectorAll("[data-viewer]")) start(figure);
})();
