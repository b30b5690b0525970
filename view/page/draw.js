'use strict'
// How the volumes are drawn: all that touches NiiVue.
//
// NiiVue draws the overlays into one texture on the image's grid. Slices get a shader of our own over
// it: contours of one screen pixel's sharpness along the borders of voxels, a fill whose opacity
// changes without drawing the texture again, and, where two label maps are compared, the voxels in
// which they differ. For that the two maps have colours that add up: the reference has no red and the
// other no blue, so that red and blue say which maps hold a voxel.

const REFERENCE = [0, 190, 255]
const OTHER = [255, 154, 31]
const PALETTE = [REFERENCE, OTHER, [60, 214, 120], [255, 110, 190], [255, 225, 77], [170, 140, 255],
  [255, 92, 77], [120, 230, 220]]

/** The colour of the n-th label of a map that is shown alone. */
function paletteColour (n) {
  if (n < PALETTE.length) return PALETTE[n]
  const h = (n * 137.508) % 360 / 60, x = Math.round(255 * (1 - Math.abs(h % 2 - 1)))
  return [[255, x, 70], [x, 255, 70], [70, 255, x], [70, x, 255], [x, 70, 255], [255, 70, x]][Math.floor(h)]
}

const SLICES = `#version 300 es
precision highp int;
precision highp float;
uniform highp sampler3D volume;
uniform highp sampler3D overlay;
uniform float overlays;
uniform float opacity;
uniform vec4 look; // fill, width of contours in pixels, 1: two maps are compared, 1: differences
uniform vec4 on;   // the reference (or the only map), the other
in vec3 texPos;
out vec4 color;

vec4 label (vec3 p) {
	if (any(lessThan(p, vec3(0.0))) || any(greaterThanEqual(p, vec3(1.0)))) return vec4(0.0);
	return texelFetch(overlay, ivec3(p * vec3(textureSize(overlay, 0))), 0);
}
vec2 maps (vec4 c) { // which maps hold a voxel
	return vec2(c.a > 0.5 && c.b > 0.5 ? on.x : 0.0, c.a > 0.5 && c.r > 0.5 ? on.y : 0.0);
}
void main () {
	vec3 across = dFdx(texPos) * look.y, along = dFdy(texPos) * look.y;
	color = vec4(texture(volume, texPos).rgb, opacity);
	if (overlays < 1.0) return;
	vec4 here = label(texPos);
	vec3 ink = vec3(0.0);
	float strength = 0.0;
	if (look.z < 0.5) {
		if (here.a < 0.5 || on.x < 0.5) return;
		ink = here.rgb;
		strength = look.x;
		if (look.y > 0.0 && (label(texPos + across) != here || label(texPos - across) != here ||
			label(texPos + along) != here || label(texPos - along) != here)) strength = 1.0;
		color.rgb = mix(color.rgb, ink, strength);
		return;
	}
	const vec3 first = vec3(0.0, 0.745, 1.0), second = vec3(1.0, 0.604, 0.122);
	vec2 m = maps(here);
	if (look.w > 0.5) {
		float apart = abs(m.x - m.y);
		ink = m.x > 0.5 ? first : second;
		strength = apart * max(look.x, 0.55);
	} else if (m.x + m.y > 0.5) {
		ink = (m.x * first + m.y * second) / (m.x + m.y);
		strength = look.x;
	}
	color.rgb = mix(color.rgb, ink, strength);
	if (look.y > 0.0) {
		vec2 least = min(min(maps(label(texPos + across)), maps(label(texPos - across))),
			min(maps(label(texPos + along)), maps(label(texPos - along))));
		vec2 border = m * (1.0 - least);
		if (border.x > 0.5 && border.y > 0.5) ink = vec3(1.0);
		else if (border.x > 0.5) ink = first;
		else ink = second;
		color.rgb = mix(color.rgb, ink, max(border.x, border.y));
	}
}`

const RAYS_VERTEX = `#version 300 es
layout(location=0) in vec3 pos;
layout(location=1) in vec3 texCoords;
uniform mat4 mvpMtx;
out vec3 start;
void main () {
	gl_Position = mvpMtx * vec4(pos, 1.0);
	start = texCoords;
}`

// Projections of the image as it is windowed, and the labels in them as bodies.
const RAYS = `#version 300 es
precision highp int;
precision highp float;
uniform vec3 rayDir;
uniform vec3 texVox;
uniform vec3 volScale;
uniform highp sampler3D volume;
uniform highp sampler3D overlay;
uniform float overlays;
uniform vec4 look; // 0: maximum, 1: mean; 1: labels; voxels from sample to sample
in vec3 start;
out vec4 fColor;

float body (vec3 p) { return texture(overlay, p).a; }
void main () {
	vec3 from = start * volScale;
	vec3 far = max((vec3(0.0) - from) / rayDir, (volScale - from) / rayDir);
	vec3 end = (from + rayDir * min(far.x, min(far.y, far.z))) / volScale;
	float voxels = length((end - start) * texVox);
	fColor = vec4(0.0, 0.0, 0.0, 1.0);
	if (voxels < 0.5) return;
	int n = int(ceil(voxels / look.z));
	vec3 each = (end - start) / float(n), p = start + 0.5 * each;
	float most = 0.0, sum = 0.0;
	vec4 hit = vec4(0.0);
	vec3 at = vec3(0.0);
	for (int i = 0; i < n; i++) {
		float v = texture(volume, p).r;
		most = max(most, v);
		sum += v;
		if (look.y > 0.5 && overlays > 0.5 && hit.a < 0.5) {
			vec4 o = texture(overlay, p);
			if (o.a > 0.5) {
				hit = vec4(o.rgb / o.a, 1.0);
				at = p;
			}
		}
		p += each;
	}
	float grey = look.x < 0.5 ? 0.75 * most : min(1.6 * sum / float(n), 1.0);
	if (hit.a > 0.5) {
		vec3 d = 1.5 / texVox;
		vec3 slope = vec3(body(at - vec3(d.x, 0, 0)) - body(at + vec3(d.x, 0, 0)),
			body(at - vec3(0, d.y, 0)) - body(at + vec3(0, d.y, 0)),
			body(at - vec3(0, 0, d.z)) - body(at + vec3(0, 0, d.z)));
		float light = abs(dot(normalize(slope + 1e-5), rayDir));
		fColor.rgb = mix(vec3(grey), min(hit.rgb, 1.0) * (0.4 + 0.6 * light), 0.88);
		return;
	}
	fColor.rgb = vec3(grey);
}`

/** The inverse of an affine [[…]×4] from voxels to mm, as a function from mm to voxels. */
function toVoxels (m) {
  const c = [0, 1, 2].map(j => [m[0][j], m[1][j], m[2][j]])
  const cross = (a, b) => [a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]]
  const dot = (a, b) => a[0] * b[0] + a[1] * b[1] + a[2] * b[2]
  const det = dot(c[0], cross(c[1], c[2]))
  const rows = [cross(c[1], c[2]), cross(c[2], c[0]), cross(c[0], c[1])]
  return mm => {
    const p = [mm[0] - m[0][3], mm[1] - m[1][3], mm[2] - m[2][3]]
    return rows.map(r => dot(r, p) / det)
  }
}

/** Gives a label map indices of its values in place of the values, where these are no small whole numbers. */
function indexLabels (volume, values) {
  const top = Math.max(0, ...values), type = volume.hdr.datatypeCode
  if ((type === 2 || type === 512 || type === 4) && top < 4000 && Math.min(0, ...values) === 0) {
    return { of: value => value, value: index => index }
  }
  const index = new Map(values.map((v, i) => [v, i + 1]))
  const small = new Uint16Array(volume.img.length)
  for (let i = 0; i < small.length; i++) {
    const v = volume.img[i]
    if (v !== 0) small[i] = index.get(v) || 0
  }
  volume.img = small
  volume.hdr.datatypeCode = 512
  volume.hdr.numBitsPerVoxel = 16
  return { of: value => index.get(value), value: index => values[index - 1] }
}

class Drawing {
  constructor (canvas, scene) {
    this.scene = scene
    this.compared = scene.labels.length > 1
    this.state = {
      fill: 0.15, contours: true, differences: false, labels: true,
      on: scene.labels.map(() => true), other: 1, only: null, off: new Set(), projection: 'mip', crosshair: true
    }
    this.toVoxels = toVoxels(scene.image.affine_ras)
    const { Niivue, SLICE_TYPE, DRAG_MODE } = window.niivue
    this.plane = { axial: SLICE_TYPE.AXIAL, coronal: SLICE_TYPE.CORONAL, sagittal: SLICE_TYPE.SAGITTAL, '3-D': SLICE_TYPE.RENDER }
    this.nv = new Niivue({
      logLevel: 'error', backColor: [0, 0, 0, 1], isRadiologicalConvention: true, isAdditiveBlend: this.compared,
      crosshairColor: [1, 0.92, 0.35, 0.8], crosshairWidth: 0, crosshairWidthUnit: 'mm', crosshairGap: 20, show3Dcrosshair: true,
      isOrientCube: true, fontColor: [0.75, 0.8, 0.85, 1], dragAndDropEnabled: false, multiplanarPadPixels: 4,
      loadingText: '', clipPlaneHotKey: '', cycleClipPlaneHotKey: '', viewModeHotKey: '', isForceMouseClickToVoxelCenters: true,
      yoke3Dto2DZoom: false, isRuler: false, measureLineColor: [1, 0.92, 0.35, 1], measureTextColor: [1, 0.92, 0.35, 1],
      mouseEventConfig: {
        leftButton: { primary: DRAG_MODE.crosshair, withShift: DRAG_MODE.measurement, withCtrl: DRAG_MODE.pan },
        rightButton: DRAG_MODE.none, centerButton: DRAG_MODE.pan
      }
    })
    this.canvas = canvas
  }

  /** Fetches all volumes and draws them, once, in the window [least, most]. */
  async load (least, most, onWhere) {
    const { nv, scene } = this, { NVImage } = window.niivue
    await nv.attachToCanvas(this.canvas, true)
    nv.setCustomSliceShader(SLICES)
    this.rays = new nv.customSliceShader.constructor(nv.gl, RAYS_VERTEX, RAYS)
    const name = nv.gl.getExtension('WEBGL_debug_renderer_info')
    const software = name && /swiftshader|llvmpipe|software/i.test(nv.gl.getParameter(name.UNMASKED_RENDERER_WEBGL))
    this.stride = software ? 4 : 1
    this.solid = nv.renderVolumeShader
    nv.renderVolumeShader = nv.renderShader = this.rays
    nv.initRenderShader(this.rays)
    const volumes = await Promise.all([
      NVImage.loadFromUrl({ url: scene.image.url, name: 'image.nii', colormap: 'gray', cal_min: least, cal_max: most }),
      ...scene.labels.map((l, i) => NVImage.loadFromUrl({
        url: l.url, name: `labels${i}.nii`, colormap: 'gray', opacity: i < 2 ? 1 : 0, cal_min: 0, cal_max: 1
      }))
    ])
    const indices = scene.labels.map((l, i) => indexLabels(volumes[i + 1], l.values.map(v => v.value)))
    this.index = indices.map(i => i.of)
    this.values = indices.map(i => i.value)
    // NiiVue's own way to add volumes draws all of them again with each.
    nv.volumes = volumes
    nv.back = volumes[0]
    nv.overlays = volumes.slice(1)
    scene.labels.forEach((_, i) => this.colour(i))
    nv.updateGLVolume()
    this.setCrosshair()
    nv.setRenderAzimuthElevation(180, 8)
    nv.onLocationChange = onWhere
    this.look()
  }

  /** The colour of a value of a map, as [r, g, b]. */
  colourOf (map, value) {
    if (this.compared) return map === 0 ? REFERENCE : OTHER
    return paletteColour(this.scene.labels[map].values.findIndex(v => v.value === value))
  }

  /** Makes the table of colours of a map. */
  colour (map) {
    const l = this.scene.labels[map], table = { R: [0], G: [0], B: [0], A: [0], I: [0] }
    for (const v of l.values) {
      const shown = (this.state.only === null || this.state.only === v.value) && !this.state.off.has(map + '/' + v.value)
      const [r, g, b] = this.colourOf(map, v.value)
      table.R.push(r); table.G.push(g); table.B.push(b)
      table.A.push(shown ? 255 : 0)
      table.I.push(this.index[map](v.value))
    }
    if (l.values.length === 0) { // a table of one colour is none
      table.R.push(0); table.G.push(0); table.B.push(0); table.A.push(0); table.I.push(1)
    }
    this.nv.volumes[map + 1].setColormapLabel(table)
  }

  /** Draws the texture of the overlays again: other colours, other maps. */
  overlays () {
    const { nv, state } = this
    this.scene.labels.forEach((_, i) => {
      const shown = state.labels && state.on[i] && (i === 0 || i === state.other)
      nv.volumes[i + 1]._opacity = shown ? 1 : 0
      this.colour(i)
    })
    for (let i = 1; i < nv.volumes.length; i++) nv.refreshLayers(nv.volumes[i], i)
    this.look()
  }

  /** Passes to the shaders what they need to know, and draws. */
  look () {
    const { nv, state } = this, gl = nv.gl, slices = nv.customSliceShader
    const width = state.contours ? 1.5 * (window.devicePixelRatio || 1) : 0
    slices.use(gl)
    gl.uniform4f(slices.uniforms.look, state.fill, width, this.compared ? 1 : 0, state.differences ? 1 : 0)
    const on = i => state.labels && state.on[i] ? 1 : 0
    gl.uniform4f(slices.uniforms.on, on(0), this.compared ? on(state.other) : 0, 0, 0)
    this.rays.use(gl)
    gl.uniform4f(this.rays.uniforms.look, state.projection === 'mean' ? 1 : 0, state.labels ? 1 : 0, this.stride, 0)
    nv.drawScene()
  }

  setProjection (name) {
    const { nv } = this
    this.state.projection = name
    nv.renderVolumeShader = nv.renderShader = name === 'solid' ? this.solid : this.rays
    nv.initRenderShader(nv.renderShader)
    nv.refreshLayers(nv.volumes[0], 0)
    this.look()
  }

  setWindow (least, most) {
    const image = this.nv.volumes[0]
    image.cal_min = least
    image.cal_max = most
    if (this.pending) return
    this.pending = requestAnimationFrame(() => {
      this.pending = 0
      this.nv.refreshLayers(image, 0)
      this.nv.drawScene()
    })
  }

  setLayout (name) {
    const { nv } = this
    if (name === 'all') {
      const wide = this.canvas.clientWidth > 1.15 * this.canvas.clientHeight
      nv.setCustomLayout(wide
        ? [{ sliceType: this.plane.axial, position: [0, 0, 0.6, 1] }, { sliceType: this.plane.coronal, position: [0.6, 0, 0.4, 0.333] },
            { sliceType: this.plane.sagittal, position: [0.6, 0.333, 0.4, 0.333] }, { sliceType: this.plane['3-D'], position: [0.6, 0.666, 0.4, 0.334] }]
        : [{ sliceType: this.plane.axial, position: [0, 0, 0.5, 0.5] }, { sliceType: this.plane.coronal, position: [0.5, 0, 0.5, 0.5] },
            { sliceType: this.plane.sagittal, position: [0, 0.5, 0.5, 0.5] }, { sliceType: this.plane['3-D'], position: [0.5, 0.5, 0.5, 0.5] }])
    } else {
      nv.clearCustomLayout()
      nv.setSliceType(this.plane[name])
    }
    nv.drawScene()
  }

  /** Moves the cross-hair to a place, RAS, mm; where the view is zoomed, it moves there too. */
  jump (mm) {
    const { nv } = this, zoom = nv.scene.pan2Dxyzmm[3]
    nv.scene.crosshairPos = nv.mm2frac(mm)
    if (zoom > 1) {
      const at = nv.frac2mm(nv.scene.crosshairPos), middle = nv.frac2mm([0.5, 0.5, 0.5])
      nv.scene.pan2Dxyzmm = [...[0, 1, 2].map(i => middle[i] - zoom * at[i]), zoom]
    }
    nv.createOnLocationChange()
    nv.drawScene()
  }

  /** Moves the cross-hair by voxels of the image turned to RAS. */
  step (x, y, z) { this.nv.moveCrosshairInVox(x, y, z) }

  zoom (factor) {
    const { nv } = this, pan = nv.scene.pan2Dxyzmm
    const next = Math.min(12, Math.max(0.5, pan[3] * factor))
    const mm = nv.frac2mm(nv.scene.crosshairPos), change = next - pan[3]
    nv.setPan2Dxyzmm([pan[0] - change * mm[0], pan[1] - change * mm[1], pan[2] - change * mm[2], next])
    this.setCrosshair()
  }

  resetZoom () {
    this.nv.setPan2Dxyzmm([0, 0, 0, 1])
    this.nv.setScale(1)
    this.setCrosshair()
  }

  /** The cross-hair, about one pixel wide. */
  setCrosshair () {
    const { size, spacing_mm } = this.scene.image
    const width = Math.max(...size.map((n, i) => n * spacing_mm[i])) / 500 / this.nv.scene.pan2Dxyzmm[3]
    this.nv.setCrosshairWidth(this.state.crosshair ? width : 0)
  }

  /** Waits until all that was drawn is there. */
  async settled () {
    const frame = () => new Promise(resolve => requestAnimationFrame(resolve))
    await frame()
    this.nv.drawScene()
    this.nv.gl.finish()
    await frame()
  }
}
