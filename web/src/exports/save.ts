/** Files and figures as the user takes them away; nothing leaves the machine. */
import { svgElement } from "../plots/svg";

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

const MARGIN = 8;

/** As large as the width allows; a bold letter is on average 0.6 of its size wide. */
function headingSize(title: string, width: number): number {
  return Math.min(14, (width - 2 * MARGIN) / (0.6 * title.length));
}

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
  const paper = svgElement("rect", { x: 0, y: -room, width, height: height + room, fill: style.getPropertyValue("--paper").trim() });
  const heading = svgElement("text", {
    x: MARGIN, y: -10, "text-anchor": "start", "font-weight": 700, "font-size": headingSize(title, width),
    fill: style.getPropertyValue("--ink").trim(),
  });
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
