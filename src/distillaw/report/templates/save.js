// Figures are saved as they are written to files: on white, in the light colours, whatever the page shows. The PDF is a
// plain link in the page and needs no script.
const SANS = "'DejaVu Sans', 'Helvetica Neue', Arial, sans-serif";
const SCALE = 3; // pixels of a PNG for one of the page

function download(blob, name) {
  const link = Object.assign(document.createElement("a"), { href: URL.createObjectURL(blob), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

function standAlone(svg) {
  const copy = svg.cloneNode(true);
  const paper = document.createElementNS(svg.namespaceURI, "rect");
  for (const [name, value] of [["width", "100%"], ["height", "100%"], ["fill", "#ffffff"]]) paper.setAttribute(name, value);
  copy.prepend(paper);
  // each colour is var(--name, #hex): the hex is the one of the files
  return new XMLSerializer().serializeToString(copy)
    .replace(/var\(--sans, sans-serif\)/g, SANS)
    .replace(/var\(--[\w-]+, (#[0-9a-f]+)\)/g, "$1");
}

async function toPng(svg) {
  const picture = new Image();
  picture.src = URL.createObjectURL(new Blob([standAlone(svg)], { type: "image/svg+xml" }));
  await picture.decode();
  const { width, height } = svg.viewBox.baseVal; // points
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [width, height].map((points) => Math.round((points * 4 * SCALE) / 3));
  canvas.getContext("2d").drawImage(picture, 0, 0, canvas.width, canvas.height);
  URL.revokeObjectURL(picture.src);
  return new Promise((resolve) => canvas.toBlob(resolve, "image/png"));
}

for (const figure of document.querySelectorAll("figure[id]")) {
  const svg = figure.querySelector("svg");
  const kinds = {
    SVG: () => new Blob([standAlone(svg)], { type: "image/svg+xml" }),
    PNG: () => toPng(svg),
  };
  const link = figure.querySelector("a.save");
  for (const [kind, make] of Object.entries(kinds)) {
    const button = document.createElement("button");
    button.className = "save";
    button.textContent = `Save as ${kind}`;
    button.setAttribute("aria-label", link.getAttribute("aria-label").replace("PDF", kind));
    button.onclick = async () => download(await make(), `${figure.id}.${kind.toLowerCase()}`);
    link.before(button, " ");
  }
}
