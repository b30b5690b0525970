'use strict'
// The page: what surrounds the slices. It reads scene.json, which the program wrote, and shows its texts
// as text only.

const $ = id => document.getElementById(id)

/** An element with properties and children. */
function element (tag, properties, ...children) {
  const e = Object.assign(document.createElement(tag), properties)
  e.append(...children)
  return e
}

/** mm, LPS, as a radiologist says them: L 23.1 P 12.0 S 340.2. */
function lps (p) {
  return ['RL', 'AP', 'IS'].map((names, i) => `${names[p[i] < 0 ? 0 : 1]} ${Math.abs(p[i]).toFixed(1)}`).join('  ')
}

const WINDOWS = [['soft tissue', 400, 40], ['bone', 2000, 500], ['lung', 1500, -600], ['neck', 270, 60]]
const LAYOUTS = [['all', 'a', 'all'], ['axial', 'z', 'axial'], ['coronal', 'y', 'coronal'], ['sagittal', 'x', 'sagittal'],
  ['3-D', 'v', '3-D']]
const PROJECTIONS = [['mip', 'MIP'], ['mean', 'mean'], ['solid', 'solid']]

let scene, drawing
let range = [0, 1] // the window: least and most
let rows = [] // of the table of nodes, in its order: {node, map, row}
let chosen = -1 // of rows
let filter = { map: 0, which: 'all' }
let order = { by: 'status', down: false }

/** What a node is in the other map. */
function status (map, node) {
  if (!drawing.compared) return ''
  const with_ = map === 0 ? drawing.state.other : 0
  const m = node.matches.find(m => m.with === with_)
  if (!m) return ''
  if (m.matched) return map === 0 ? 'found' : 'true'
  if (m.node > 0) return 'touched'
  return map === 0 ? 'missed' : 'invented'
}

function role (i) {
  if (!drawing.compared) return ''
  return i === 0 ? 'truth' : scene.labels.length > 2 ? `prediction ${i}` : 'prediction'
}

function valueName (label, value) {
  const v = label.values.find(v => v.value === value)
  return v && v.name ? v.name : `label ${value}`
}

// ---- window -----------------------------------------------------------------------------------------

function setWindow (least, most) {
  if (!(most > least)) return
  drawing.setWindow(least, most)
  showWindow(least, most)
}

function showWindow (least, most) {
  range = [least, most]
  $('width').value = +(most - least).toPrecision(4)
  $('level').value = +((least + most) / 2).toPrecision(4)
  for (const b of $('windows').children) {
    b.setAttribute('aria-pressed', Math.abs(b.range[0] - least) + Math.abs(b.range[1] - most) < 1e-3 * (most - least))
  }
}

/** The windows to choose from: name, least, most. */
function windows () {
  const ct = scene.image.least < -200
  const list = ct ? WINDOWS.map(([name, width, level]) => [name, level - width / 2, level + width / 2]) : []
  return [...list, ['auto', ...scene.image.range]]
}

function buildWindows () {
  windows().forEach(([name, least, most], i) => {
    const b = element('button', { type: 'button', textContent: name, title: `key ${i + 1}`, range: [least, most] })
    b.addEventListener('click', () => setWindow(least, most))
    $('windows').append(b)
  })
  for (const id of ['width', 'level']) {
    $(id).addEventListener('change', () => {
      const width = Math.max(+$('width').value, 1e-6), level = +$('level').value
      setWindow(level - width / 2, level + width / 2)
    })
  }
  showWindow(...$('windows').children[0].range)
}

/** A group of buttons of which one is pressed. */
function choices (parent, list, pick) {
  const press = name => {
    for (const b of parent.children) b.setAttribute('aria-pressed', b.name_ === name)
    pick(name)
  }
  for (const [name, text, title] of list) {
    const b = element('button', { type: 'button', textContent: text, name_: name, title: title || '' })
    b.addEventListener('click', () => press(name))
    parent.append(b)
  }
  return press
}

// ---- labels -----------------------------------------------------------------------------------------

function swatch (map, value) {
  const s = element('span', { className: 'swatch' })
  s.style.color = `rgb(${drawing.colourOf(map, value).join()})`
  return s
}

function buildLabels () {
  if (scene.labels.length === 0) {
    $('labels-section').hidden = $('nodes-section').hidden = true
    return
  }
  scene.labels.forEach((l, i) => {
    const box = element('input', { type: 'checkbox', checked: true, id: `label-${i}` })
    box.addEventListener('change', () => {
      drawing.state.on[i] = box.checked
      drawing.overlays()
    })
    const label = element('label', {}, box)
    if (drawing.compared || l.values.length === 1) label.append(swatch(i, l.values.length ? l.values[0].value : 0))
    label.append(element('span', { className: 'name', textContent: l.name }))
    const item = element('li', {}, label)
    if (drawing.compared) item.append(element('span', { className: 'role', textContent: role(i) }))
    if (scene.labels.length > 2 && i > 0) {
      const pick = element('input', { type: 'radio', name: 'other', checked: i === 1, title: 'compare this one (key p)' })
      pick.addEventListener('change', () => setOther(i))
      item.prepend(pick)
    }
    item.append(element('span', { className: 'count', textContent: count(l.nodes.length + l.hidden, 'node') }))
    $('labels').append(item)
    if (!drawing.compared && l.values.length > 1) {
      const inner = element('ul', {})
      for (const v of l.values) {
        const one = element('input', { type: 'checkbox', checked: true })
        one.addEventListener('change', () => {
          drawing.state.off[one.checked ? 'delete' : 'add'](i + '/' + v.value)
          drawing.overlays()
        })
        inner.append(element('li', {}, element('label', {}, one, swatch(i, v.value),
          element('span', { className: 'name', textContent: valueName(l, v.value) })),
        element('span', { className: 'count', textContent: count(v.nodes, 'node') })))
      }
      $('labels').append(element('li', {}, inner))
    }
  })
  const values = [...new Set(scene.labels.flatMap(l => l.values.map(v => v.value)))].sort((a, b) => a - b)
  $('only-row').hidden = values.length < 2
  $('only').append(element('option', { value: '', textContent: 'all labels' }))
  for (const v of values) {
    const named = scene.labels.find(l => l.values.some(x => x.value === v))
    $('only').append(element('option', { value: v, textContent: valueName(named, v) }))
  }
  $('only').addEventListener('change', () => {
    drawing.state.only = $('only').value === '' ? null : +$('only').value
    drawing.overlays()
    listNodes()
  })
  $('fill').value = 100 * drawing.state.fill
  $('fill').addEventListener('input', () => {
    drawing.state.fill = $('fill').value / 100
    drawing.look()
  })
  $('contours').addEventListener('change', () => {
    drawing.state.contours = $('contours').checked
    drawing.look()
  })
  $('differences-row').hidden = !drawing.compared
  $('differences').addEventListener('change', () => {
    drawing.state.differences = $('differences').checked
    $('legend').hidden = !$('differences').checked
    drawing.look()
  })
}

function count (n, what) { return `${n} ${what}${n === 1 ? '' : 's'}` }

function setOther (i) {
  drawing.state.other = i
  for (const [k, r] of document.getElementsByName('other').entries()) r.checked = k + 1 === i
  if (filter.map > 0) filter.map = i
  drawing.overlays()
  buildWhich()
  listNodes()
}

// ---- nodes ------------------------------------------------------------------------------------------

const COLUMNS = [
  { name: 'node', text: 'node', key: n => n.label * 1e6 + n.node },
  { name: 'volume', text: 'ml', title: 'volume', key: n => n.volume_mm3 },
  { name: 'short', text: 'short mm', title: 'short axis in the axial slice with most of its voxels, mm', key: n => n.short_axis_mm },
  { name: 'centroid', text: 'centroid', title: 'mm from the origin of patient coordinates', key: n => n.centroid_lps_mm[2] },
  { name: 'status', text: '', key: (n, map) => ['missed', 'invented', 'touched', 'found', 'true', ''].indexOf(status(map, n)) }
]

function buildWhich () {
  $('which').replaceChildren()
  const list = scene.labels.map((_, i) => i).filter(i => i === 0 || i === drawing.state.other)
  if (!drawing.compared) return
  for (const i of list) {
    const b = element('button', { type: 'button' }, swatch(i, 0), ` ${role(i)}`)
    b.setAttribute('aria-pressed', filter.map === i)
    b.addEventListener('click', () => {
      filter.map = i
      buildWhich()
      listNodes()
    })
    $('which').append(b)
  }
  const bad = element('button', { type: 'button', textContent: filter.map === 0 ? 'missed only' : 'invented only' })
  bad.setAttribute('aria-pressed', filter.which === 'bad')
  bad.addEventListener('click', () => {
    filter.which = filter.which === 'bad' ? 'all' : 'bad'
    buildWhich()
    listNodes()
  })
  $('which').append(bad)
}

function buildHead () {
  for (const c of COLUMNS) {
    if (c.name === 'status' && !drawing.compared) continue
    const th = element('th', { scope: 'col', title: c.title || '' })
    const b = element('button', { type: 'button', textContent: c.text || 'match' })
    b.addEventListener('click', () => {
      order = { by: c.name, down: order.by === c.name ? !order.down : c.name === 'volume' || c.name === 'short' }
      listNodes()
    })
    th.append(b)
    th.name_ = c.name
    $('nodes').tHead.rows[0].append(th)
  }
  if (!drawing.compared) order.by = 'node'
}

function listNodes () {
  const map = filter.map, l = scene.labels[map]
  if (!l) return
  const column = COLUMNS.find(c => c.name === order.by)
  let list = l.nodes.filter(n => drawing.state.only === null || n.label === drawing.state.only)
  const all = list
  if (filter.which === 'bad') list = list.filter(n => ['missed', 'invented', 'touched'].includes(status(map, n)))
  list = [...list].sort((a, b) => {
    const d = column.key(a, map) - column.key(b, map)
    return (order.down ? -d : d) || b.short_axis_mm - a.short_axis_mm || a.node - b.node
  })
  for (const th of $('nodes').tHead.rows[0].cells) {
    th.setAttribute('aria-sort', th.name_ === order.by ? (order.down ? 'descending' : 'ascending') : 'none')
  }
  chosen = -1
  const body = $('nodes').tBodies[0]
  body.replaceChildren()
  const several = l.values.length > 1
  rows = list.map((node, i) => {
    const row = body.insertRow()
    row.tabIndex = 0
    row.setAttribute('aria-selected', false)
    const state = status(map, node)
    const first = element('td', {}, swatch(map, node.label), String(node.node))
    if (several) first.append(element('small', { textContent: valueName(l, node.label) }))
    row.append(first,
      element('td', { textContent: (node.volume_mm3 / 1000).toFixed(2) }),
      element('td', { textContent: node.short_axis_mm.toFixed(1), title: `long axis ${node.long_axis_mm.toFixed(1)} mm` }),
      element('td', { title: `centroid ${lps(node.centroid_lps_mm)} mm` }, `${scene.axial} ${node.slice}`,
        element('small', { textContent: lps(node.centroid_lps_mm).replace(/\.\d/g, '') })))
    if (drawing.compared) {
      const m = node.matches.find(m => m.with === (map === 0 ? drawing.state.other : 0))
      const cell = element('td', { className: state, textContent: state })
      if (m && m.node > 0) cell.append(element('small', { textContent: `IoU ${m.iou.toFixed(2)}` }))
      row.append(cell)
    }
    row.addEventListener('click', () => choose(i))
    row.addEventListener('keydown', e => { if (e.key === 'Enter' || e.key === ' ') { choose(i); e.preventDefault(); e.stopPropagation() } })
    return { node, map, row }
  })
  const n = (...names) => all.filter(x => names.includes(status(map, x))).length
  $('summary').textContent = !drawing.compared || !scene.labels[drawing.state.other].compared ? ''
    : map === 0 ? `${n('found')} of ${all.length} found (IoU ≥ 0.3), ${n('touched')} touched, ${n('missed')} missed`
      : `${n('true')} of ${all.length} true (IoU ≥ 0.3), ${n('touched')} touching, ${n('invented')} invented`
  $('hidden-nodes').textContent = l.hidden ? `The ${l.hidden} smallest are not listed.`
    : list.length ? '' : filter.which === 'bad' ? 'None.' : 'No nodes.'
}

function choose (i) {
  if (!rows.length) return
  i = (i + rows.length) % rows.length
  if (rows[chosen]) rows[chosen].row.setAttribute('aria-selected', false)
  chosen = i
  rows[i].row.setAttribute('aria-selected', true)
  rows[i].row.scrollIntoView({ block: 'nearest' })
  drawing.jump(rows[i].node.at_ras_mm)
}

// ---- where the cross-hair is ------------------------------------------------------------------------

function where (location) {
  const mm = location.mm, voxel = drawing.toVoxels(mm).map(Math.round)
  const value = location.values[0].value
  const text = [
    [`${lps([-mm[0], -mm[1], mm[2]])} mm`],
    ['voxel ', voxel.join(', ')],
    [scene.image.least < -200 ? 'HU ' : 'value ', Number.isInteger(value) ? value : Number(value).toPrecision(4)]
  ]
  scene.labels.forEach((l, i) => {
    if (i > 0 && i !== drawing.state.other) return
    const v = drawing.values[i](location.values[i + 1].value)
    if (v) text.push([drawing.compared ? `${role(i)} ` : '', valueName(l, v)])
  })
  $('where').replaceChildren(...text.map(([name, bold]) =>
    element('span', {}, name, ...(bold === undefined ? [] : [element('b', { textContent: bold })]))))
}

// ---- keys -------------------------------------------------------------------------------------------

const toggle = id => { if (!$(id).closest('[hidden]')) $(id).click() }
const KEYS = [
  [['n', 'ArrowRight'], 'next node', () => choose(chosen + 1)],
  [['b', 'ArrowLeft'], 'node before', () => choose(chosen < 0 ? -1 : chosen - 1)],
  [['ArrowUp'], 'one slice towards the head', () => slice(1)],
  [['ArrowDown'], 'one slice towards the feet', () => slice(-1)],
  [['PageUp'], 'five slices towards the head', () => slice(5)],
  [['PageDown'], 'five slices towards the feet', () => slice(-5)],
  [['1', '2', '3', '4', '5'], 'window, in the order of the buttons', k => { const b = $('windows').children[k - 1]; if (b) b.click() }],
  [['a'], 'planes and 3-D', () => layout('all')],
  [['z'], 'axial alone', () => layout('axial')],
  [['y'], 'coronal alone', () => layout('coronal')],
  [['x'], 'sagittal alone', () => layout('sagittal')],
  [['v'], '3-D alone', () => layout('3-D')],
  [['m'], '3-D: MIP, mean, solid', () => project(PROJECTIONS[(PROJECTIONS.findIndex(p => p[0] === drawing.state.projection) + 1) % 3][0])],
  [['l'], 'labels on and off', () => { drawing.state.labels = !drawing.state.labels; drawing.overlays() }],
  [['t'], 'truth on and off', () => toggle('label-0')],
  [['r'], 'prediction on and off', () => { if (drawing.compared) toggle(`label-${drawing.state.other}`) }],
  [['p'], 'next prediction, where there are several', () => { if (scene.labels.length > 2) setOther(drawing.state.other % (scene.labels.length - 1) + 1) }],
  [['d'], 'differences on and off', () => toggle('differences')],
  [['c'], 'contours on and off', () => toggle('contours')],
  [['[', ']'], 'less and more fill', k => { $('fill').value = +$('fill').value + (k === ']' ? 10 : -10); $('fill').dispatchEvent(new Event('input')) }],
  [['h'], 'cross-hair on and off', () => { drawing.state.crosshair = !drawing.state.crosshair; drawing.setCrosshair() }],
  [['+', '-'], 'zoom', k => drawing.zoom(k === '+' ? 1.25 : 0.8)],
  [['0'], 'whole image', () => drawing.resetZoom()],
  [['?'], 'this list', () => $('help').open ? $('help').close() : $('help').showModal()]
]
let layout, project, byName, current = 'all'

function slice (n) {
  const s = { coronal: [0, n, 0], sagittal: [n, 0, 0] }[current] || [0, 0, n]
  drawing.step(...s)
}

function buildKeys () {
  const names = { ArrowRight: '→', ArrowLeft: '←', ArrowUp: '↑', ArrowDown: '↓', PageUp: 'Page up', PageDown: 'Page down' }
  for (const [keys, text] of KEYS) {
    const dt = element('dt', {})
    keys.forEach((k, i) => dt.append(i ? ' ' : '', element('kbd', { textContent: names[k] || k })))
    $('keys').append(dt, element('dd', { textContent: text }))
  }
  $('help-button').addEventListener('click', () => $('help').showModal())
  const byKey = new Map(KEYS.flatMap(([keys, , run]) => keys.map(k => [k, run])))
  byName = key => byKey.get(key)(key)
  // NiiVue's own keys do not count: the list under ? is all there is.
  window.addEventListener('keydown', e => {
    const typing = e.target.matches('input[type=number], select')
    const sliding = e.target.matches('input[type=range]') && e.key.startsWith('Arrow')
    if (e.target === $('canvas')) e.stopPropagation()
    if (typing || sliding || e.ctrlKey || e.metaKey || e.altKey) return
    if ($('help').open && e.key !== '?') return
    const run = byKey.get(e.key)
    if (!run) return
    e.preventDefault()
    run(e.key)
  }, true)
  window.addEventListener('keyup', e => { if (e.target === $('canvas')) e.stopPropagation() }, true)
}

// The window with the right button, and the zoom with Ctrl and the wheel: NiiVue's own would not
// tell the page.
function buildMouse () {
  let from = null
  const screen = $('screen')
  screen.addEventListener('mousedown', e => {
    if (e.button !== 2) return
    from = { x: e.clientX, y: e.clientY, range }
    e.preventDefault()
    e.stopPropagation()
  }, true)
  window.addEventListener('mousemove', e => {
    if (!from) return
    e.stopPropagation()
    const width = from.range[1] - from.range[0], level = (from.range[0] + from.range[1]) / 2
    const next = Math.max(width * Math.exp((e.clientX - from.x) / 250), 1e-3 * width)
    const middle = level - (e.clientY - from.y) * width / 400
    setWindow(middle - next / 2, middle + next / 2)
  }, true)
  window.addEventListener('mouseup', e => {
    if (e.button !== 2 || !from) return
    from = null
    e.stopPropagation()
  }, true)
  screen.addEventListener('contextmenu', e => e.preventDefault(), true)
  screen.addEventListener('dblclick', e => e.stopPropagation(), true)
  screen.addEventListener('wheel', e => {
    if (!e.ctrlKey) return
    e.preventDefault()
    e.stopPropagation()
    drawing.zoom(e.deltaY < 0 ? 1.15 : 1 / 1.15)
  }, { capture: true, passive: false })
}

// ---- start ------------------------------------------------------------------------------------------

async function start () {
  if (!window.niivue) throw new Error('NiiVue did not load')
  const answer = await fetch('scene.json')
  if (!answer.ok) throw new Error('the program has ended: run lntorch view again')
  scene = await answer.json()
  document.title = `${scene.image.name} – lntorch view`
  $('image').textContent = scene.image.name
  $('facts').textContent = `${scene.image.size.join(' × ')} voxels of ${scene.image.spacing_mm.map(s => +s.toPrecision(3)).join(' × ')} mm`
  for (const w of scene.warnings) $('warnings').append(element('li', { textContent: w }))
  $('status').textContent = `loading ${scene.image.name} …`
  drawing = new Drawing($('canvas'), scene)
  await drawing.load(...windows()[0].slice(1), location => where(location))
  buildWindows()
  layout = choices($('layouts'), LAYOUTS.map(([name, key, text]) => [name, text, `key ${key}`]),
    name => { current = name; drawing.setLayout(name) })
  project = choices($('projections'), PROJECTIONS.map(([name, text]) => [name, text, 'how 3-D shows the image (key m)']),
    name => drawing.setProjection(name))
  buildLabels()
  buildWhich()
  buildHead()
  listNodes()
  buildKeys()
  buildMouse()
  layout('all')
  $('projections').children[0].setAttribute('aria-pressed', true)
  window.addEventListener('resize', () => { if (current === 'all') drawing.setLayout('all') })
  if (rows.length) choose(0)
  else drawing.jump(scene.image.centre_ras_mm)
  await drawing.settled()
  $('status').hidden = true
  const ready = element('div', { id: 'ready', hidden: true })
  ready.dataset.volumes = drawing.nv.volumes.length
  document.body.append(ready)
}

start().catch(error => {
  const gl = document.createElement('canvas').getContext('webgl2')
  $('status').classList.add('error')
  $('status').textContent = gl ? `The image could not be shown: ${error.message}`
    : 'The image could not be shown: this browser has no WebGL 2.\nTurn hardware acceleration on in its settings, or use another browser.'
  console.error(error)
})
