/* A small line chart: curves of losses over steps, drawn as SVG. */
"use strict";

(function (ty) {
    const SVG = "http://www.w3.org/2000/svg";
    const LEFT = 46, RIGHT = 10, TOP = 10, BOTTOM = 22;
    ty.COLOURS = ["#f97316", "#3b82f6", "#22a06b", "#a855f7", "#e11d48", "#0891b2", "#ca8a04",
        "#64748b", "#db2777", "#65a30d", "#7c3aed", "#0d9488"];

    function shape(name, attributes, text) {
        const made = document.createElementNS(SVG, name);
        for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
        if (text !== undefined) made.textContent = text;
        return made;
    }

    /** Round values between two bounds, about `count` of them. */
    function ticks(low, high, count) {
        const raw = (high - low) / Math.max(1, count);
        const power = 10 ** Math.floor(Math.log10(raw || 1));
        const step = [1, 2, 2.5, 5, 10].map((one) => one * power).find((one) => one >= raw);
        const found = [];
        for (let at = Math.ceil(low / step) * step; at <= high + step * 1e-6; at += step) found.push(at);
        return found;
    }

    function bounds(curves) {
        let last = 1, low = Infinity, high = -Infinity;
        for (const {points} of curves) {
            const losses = points.map((p) => p[1]).filter((v) => v !== null).sort((a, b) => a - b);
            if (!losses.length) continue;
            last = Math.max(last, points[points.length - 1][0]);
            // a few outliers must not flatten everything else
            low = Math.min(low, losses[Math.floor((losses.length - 1) * 0.01)]);
            high = Math.max(high, losses[Math.ceil((losses.length - 1) * 0.99)]);
        }
        if (!isFinite(low)) return {last, low: 0, high: 1};
        const margin = (high - low) * 0.08 || Math.abs(high) * 0.1 || 1;
        return {last, low: Math.max(0, low - margin), high: high + margin};
    }

    /**
     * Draws curves into an element.
     * @param curves [{name, colour, points: [[step, loss, smoothed, rate], ...]}]
     * @param label what it shows, for those who cannot see it
     * @param told what is said of the point under the pointer
     */
    ty.chart = function (place, curves, label, told = lossAt) {
        const width = Math.max(260, place.clientWidth || 600), height = 220;
        const {last, low, high} = bounds(curves);
        const x = (step) => LEFT + (step / last) * (width - LEFT - RIGHT);
        const y = (loss) => TOP + (1 - (Math.min(high, Math.max(low, loss)) - low) / (high - low))
            * (height - TOP - BOTTOM);
        const svg = shape("svg", {viewBox: `0 0 ${width} ${height}`, width, height, role: "img",
            "aria-label": label, class: "trainyard_chart"});
        for (const at of ticks(low, high, 4)) {
            svg.append(shape("line", {x1: LEFT, x2: width - RIGHT, y1: y(at), y2: y(at), class: "grid"}));
            svg.append(shape("text", {x: LEFT - 6, y: y(at) + 4, "text-anchor": "end"}, ty.number(at)));
        }
        for (const at of ticks(0, last, Math.min(6, width / 90)).filter((one) => one === Math.round(one))) {
            svg.append(shape("text", {x: x(at), y: height - 6, "text-anchor": "middle"}, String(at)));
        }
        for (const {colour, points} of curves) {
            svg.append(line(points, 1, x, y, {stroke: colour, "stroke-width": 1, opacity: 0.28}));
            svg.append(line(points, 2, x, y, {stroke: colour, "stroke-width": 2}));
        }
        const mark = shape("line", {y1: TOP, y2: height - BOTTOM, class: "mark", visibility: "hidden"});
        const read = ty.el("p", {class: "trainyard_reading"}, "");
        svg.append(mark);
        svg.addEventListener("pointermove", (event) => {
            const spot = svg.getBoundingClientRect();
            const step = (event.clientX - spot.left - LEFT) / (width - LEFT - RIGHT) * last;
            const texts = curves.filter((one) => one.points.length).map((one) => {
                const near = one.points.reduce((a, b) => (Math.abs(b[0] - step) < Math.abs(a[0] - step) ? b : a));
                mark.setAttribute("x1", x(near[0]));
                mark.setAttribute("x2", x(near[0]));
                const name = curves.length > 1 ? one.name + ": " : "";
                return `${name}step ${near[0]}, ${told(near)}`;
            });
            mark.setAttribute("visibility", texts.length ? "visible" : "hidden");
            read.textContent = texts.join(" | ");
        });
        svg.addEventListener("pointerleave", () => {
            mark.setAttribute("visibility", "hidden");
            read.textContent = "";
        });
        place.replaceChildren(svg, read);
    };

    const lossAt = (point) => `loss ${ty.number(point[1])}, smoothed ${ty.number(point[2])}`;

    function line(points, column, x, y, attributes) {
        const path = points.filter((p) => p[column] !== null)
            .map((p, i) => `${i ? "L" : "M"}${x(p[0]).toFixed(1)} ${y(p[column]).toFixed(1)}`).join("");
        return shape("path", {d: path, fill: "none", "stroke-linejoin": "round", ...attributes});
    }
})(window.trainyard);
