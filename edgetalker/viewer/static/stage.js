// The 3D scene: our face with its morph targets, or the user's mesh with its vertices.

import * as THREE from 'three';
import { GLTFLoader } from './three/loaders/GLTFLoader.js';
import { OrbitControls } from './three/controls/OrbitControls.js';

// colour, power, direction: key, fill, rim
const LAMPS = [[0xfff1e0, 2.3, [-0.5, 0.6, 1]], [0xbcd4ff, 0.9, [1, 0.1, 0.3]], [0xffffff, 0.8, [0.3, 0.6, -1]]];
const FRAMINGS = { close: [-0.025, 0.6], head: [-0.008, 0.76], bust: [-0.03, 1.0] }; // height and distance of the camera, metres
const HEAD_ANGLES = ['HeadYaw', 'HeadPitch', 'HeadRoll'];

/** Whether WebGL is computed on the CPU here: then fewer pixels must do. */
function drawsOnCpu() {
  const context = document.createElement('canvas').getContext('webgl2');
  const known = context?.getExtension('WEBGL_debug_renderer_info');
  const name = known ? context.getParameter(known.UNMASKED_RENDERER_WEBGL) : '';
  context?.getExtension('WEBGL_lose_context')?.loseContext();
  return /swiftshader|llvmpipe|software/i.test(name);
}

const SLOW_MS = 50; // a page that draws slower than this gets fewer pixels
const LEAST_RATIO = 0.5;

export class Stage {
  /** framing: close, head or bust. still: nobody turns or nears the face. */
  constructor(canvas, { framing = null, still = false } = {}) {
    this.canvas = canvas;
    this.framing = FRAMINGS[framing] ?? FRAMINGS.head;
    const spare = drawsOnCpu();
    this.renderer = new THREE.WebGLRenderer({ canvas, antialias: !spare, alpha: true });
    this.renderer.toneMapping = THREE.NeutralToneMapping;
    this.renderer.toneMappingExposure = 1.15;
    this.full = Math.min(devicePixelRatio, 2);
    this.quick = spare ? 0.75 : this.full;
    this.renderer.setPixelRatio(this.quick);
    this.scene = new THREE.Scene();
    this.camera = new THREE.PerspectiveCamera(24, 1, 0.01, 100);
    this.orbit = new OrbitControls(this.camera, canvas);
    this.orbit.enableDamping = true;
    this.orbit.enabled = !still;
    this.orbit.addEventListener('change', () => { this.stale = true; });
    this.light();
    new ResizeObserver(() => this.resize()).observe(canvas.parentElement);
    this.resize();
  }

  light() {
    this.scene.add(new THREE.HemisphereLight(0xe6ecf5, 0x6a5148, 1.5));
    for (const [colour, power, place] of LAMPS) {
      const lamp = new THREE.DirectionalLight(colour, power);
      lamp.position.set(...place);
      this.scene.add(lamp);
    }
  }

  resize() {
    const { clientWidth, clientHeight } = this.canvas.parentElement;
    if (!clientWidth || !clientHeight) return;
    this.renderer.setSize(clientWidth, clientHeight, false);
    this.camera.aspect = clientWidth / clientHeight;
    this.camera.updateProjectionMatrix();
    this.stale = true;
  }

  look(height, distance) {
    this.camera.position.set(0, height, distance);
    this.orbit.target.set(0, height, 0);
    this.orbit.minDistance = distance / 4;
    this.orbit.maxDistance = distance * 3;
    this.camera.near = distance / 50;
    this.camera.far = distance * 20;
    this.camera.updateProjectionMatrix();
    this.orbit.update();
  }

  clear() {
    if (this.shown) this.scene.remove(this.shown);
    this.shown = this.head = this.mesh = null;
  }

  /** Show our face; `names` say which value drives what. */
  async showFace(url, names) {
    const gltf = await new GLTFLoader().loadAsync(url);
    this.clear();
    this.shown = gltf.scene;
    this.head = gltf.scene.getObjectByName('head');
    this.drives = [];
    gltf.scene.traverse((part) => {
      if (!part.morphTargetDictionary) return;
      names.forEach((name, place) => {
        const target = part.morphTargetDictionary[name];
        if (target !== undefined) this.drives.push([place, part.morphTargetInfluences, target]);
      });
    });
    this.angles = HEAD_ANGLES.map((name) => names.indexOf(name));
    this.scene.add(gltf.scene);
    this.look(...this.framing);
    this.stale = true;
  }

  /** Show a mesh whose vertices are the motion itself. */
  async showMesh(url) {
    const reply = await fetch(url);
    if (!reply.ok) throw new Error(`the mesh did not come (${reply.status})`);
    const data = await reply.arrayBuffer();
    const head = new DataView(data);
    const [count, triangles] = [head.getUint32(4, true), head.getUint32(8, true)];
    const geometry = new THREE.BufferGeometry();
    geometry.setAttribute('position', new THREE.BufferAttribute(new Float32Array(count * 3), 3).setUsage(THREE.DynamicDrawUsage));
    geometry.setIndex(new THREE.BufferAttribute(new Uint32Array(data, 12, triangles * 3), 1));
    this.clear();
    this.mesh = new THREE.Mesh(geometry, new THREE.MeshStandardMaterial({ color: 0xd8a98c, roughness: 0.6, side: THREE.DoubleSide }));
    this.mesh.frustumCulled = false;
    this.fitted = false;
    this.shown = this.mesh;
    this.scene.add(this.mesh);
    this.stale = true;
  }

  pose(values) {
    if (this.mesh) this.poseMesh(values);
    else if (this.head) this.poseFace(values);
    this.stale = true;
  }

  poseFace(values) {
    for (const [place, influences, target] of this.drives) influences[target] = values[place];
    const [yaw, pitch, roll] = this.angles.map((place) => (place < 0 ? 0 : values[place]));
    this.head.rotation.set(pitch, yaw, roll, 'YXZ');
  }

  poseMesh(values) {
    const { geometry } = this.mesh;
    geometry.attributes.position.array.set(values);
    geometry.attributes.position.needsUpdate = true;
    geometry.computeVertexNormals();
    if (this.fitted) return;
    this.fitted = true; // whatever the unit: the camera comes to the mesh
    geometry.computeBoundingBox();
    const [size, middle] = [new THREE.Vector3(), new THREE.Vector3()];
    geometry.boundingBox.getSize(size);
    geometry.boundingBox.getCenter(middle);
    this.mesh.position.set(-middle.x, -middle.y, -middle.z);
    this.look(0, Math.max(size.x, size.y) * 2.6);
  }

  draw() {
    this.orbit.update();
    if (!this.stale) return;
    this.stale = false;
    this.spare(); // before drawing: a change of size empties the canvas
    this.renderer.render(this.scene, this.camera);
  }

  /** Keep the picture in time with the sound on a slow machine: draw fewer pixels rather than fewer pictures. */
  spare() {
    const now = performance.now();
    const spent = now - (this.drawn ?? now);
    this.drawn = now;
    if (this.still || spent > 1000) return;
    this.pace = 0.85 * (this.pace ?? 20) + 0.15 * spent;
    if (this.pace < SLOW_MS || this.quick <= LEAST_RATIO) return;
    this.quick = Math.max(this.quick * 0.8, LEAST_RATIO);
    this.pace = 20;
    this.renderer.setPixelRatio(this.quick);
  }

  /** A picture that stands still may take its time and all its pixels. */
  hold(still) {
    if (still === this.still) return;
    this.still = still;
    const ratio = still ? this.full : this.quick;
    if (ratio === this.renderer.getPixelRatio()) return;
    this.renderer.setPixelRatio(ratio);
    this.stale = true;
  }
}
