/** Files and figures as the user takes them away; nothing leaves the machine. */

/** Offer a file for download. */
export function save(name: string, content: BlobPart, type: string): void {
  const link = document.createElement("a");
  const url = URL.createObjectURL(new Blob([content], { type }));
  link.href = url;
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
}

const VARIABLE = /var\((--[\w-]+)(?:,[^)]*)?\)/g;

/** A figure as a file of its own: its title inside, the colours and the font of the light page. */
export function figureSvg(svg: SVGElement, title: string): string {
  const copy = svg.cloneNode(true) as SVGElement;
  const light = document.querySelector(".light-values")!;
  const style = getComputedStyle(light);
  const resolve = (text: string) => text.replace(VARIABLE, (_, name: string) => style.getPropertyValue(name).trim());
  for (const element of [copy, ...copy.querySelectorAll("*")]) {
    for (const attribute of [...element.attributes]) {
      if (attribute.value.includes("var(")) attribute.value = resolve(attribute.value);
    }
    if (element.tagName === "style") element.textContent = resolve(element.textContent ?? "");
  }
  const [width, height] = [Number(svg.getAttribute("width")), Number(svg.getAttribute("height"))];
  const room = 30;
  copy.setAttribute("viewBox", `0 ${-room} ${width} ${height + room}`);
  copy.setAttribute("height", String(height + room));
  copy.setAttribute("xmlns", "http://www.w3.org/2000/svg");
  const paper = document.createElementNS("http://www.w3.org/2000/svg", "rect");
  for (const [name, value] of Object.entries({ x: 0, y: -room, width, height: height + room, fill: style.getPropertyValue("--paper").trim() })) {
    paper.setAttribute(name, String(value));
  }
  const heading = document.createElementNS("http://www.w3.org/2000/svg", "text");
  heading.setAttribute("x", "8");
  heading.setAttribute("y", "-10");
  heading.setAttribute("font-weight", "700");
  heading.setAttribute("font-size", "14");
  heading.setAttribute("fill", style.getPropertyValue("--ink").trim());
  heading.textContent = title;
  copy.prepend(paper, heading);
  return new XMLSerializer().serializeToString(copy);
}

/** The same as a picture, twice as fine as on the screen. */
export async function figurePng(svg: SVGElement, title: string): Promise<Blob> {
  const text = figureSvg(svg, title);
  const image = new Image();
  image.src = `data:image/svg+xml;charset=utf-8,${encodeURIComponent(text)}`;
  await image.decode();
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [2 * image.width, 2 * image.height];
  canvas.getContext("2d")!.drawImage(image, 0, 0, canvas.width, canvas.height);
  return new Promise((done, fail) => canvas.toBlob((blob) => (blob ? done(blob) : fail(new Error("no picture"))), "image/png"));
}
