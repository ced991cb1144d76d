"""How the page looks: colours are Gradio's own, so both themes work; one column on a phone, results first."""

from __future__ import annotations

CSS = """
.gradio-container {--muted: #4b5563; --good: #15803d; --bad: #b91c1c}
.dark .gradio-container, .gradio-container.dark {--muted: #c3c7cf; --good: #4ade80; --bad: #fca5a5}
.gradio-container {--block-info-text-color: var(--muted); --block-label-text-color: var(--body-text-color);
    --body-text-color-subdued: var(--muted)}
.gradio-container {--block-title-text-color: var(--body-text-color)}
.gradio-container main.app, .gradio-container .app {padding: 12px 20px}
.html-container {padding: 0 !important}
.intro h1 {font-size: 22px; line-height: 1.2; margin: 0 0 4px; font-weight: 700}
.intro p {margin: 0; line-height: 1.45; color: var(--body-text-color)}
.intro a {color: var(--link-text-color); text-decoration: underline; margin: 0 14px 0 0; padding: 0}
.intro .to-settings {display: none}
.note {color: var(--muted); margin: 0; line-height: 1.45}
.note b {color: var(--body-text-color)}
.note.error {color: var(--error-text-color); background: var(--error-background-fill); padding: 8px 12px;
    border: 1px solid var(--error-border-color); border-radius: 6px}
.cards {display: grid; grid-template-columns: repeat(3, minmax(0, 1fr)); gap: 10px}
.card {border: 1px solid var(--border-color-primary); border-radius: 8px; padding: 10px 12px;
    background: var(--block-background-fill); display: grid; gap: 6px 12px; grid-template-columns: 104px minmax(0, 1fr);
    grid-template-rows: auto 1fr}
.card h2 {grid-column: 1 / 3; font-size: 15px; font-weight: 600; margin: 0; line-height: 1.3}
.card .seen {width: 104px; height: 104px}
.card .says {font-size: 19px; font-weight: 700; margin: 0; line-height: 1.2; overflow-wrap: anywhere}
.card .mark {font-size: 13px; font-weight: 600; margin: 0 0 4px; line-height: 1.3}
.right .mark {color: var(--good)}
.wrong .mark {color: var(--bad)}
.card .how {grid-column: 1 / 3; color: var(--muted); font-size: 13px; margin: 0; line-height: 1.4}
.bar {display: grid; grid-template-columns: minmax(0, 1fr) auto; font-size: 13px; line-height: 1.3; column-gap: 6px}
.bar span:first-child {overflow: hidden; text-overflow: ellipsis; white-space: nowrap}
.bar i {grid-column: 1 / 3; height: 4px; border-radius: 2px; background: var(--border-color-primary); margin: 1px 0 3px}
.bar i b {display: block; height: 100%; border-radius: 2px; background: #3b82f6}
.python pre {font: 12.5px/1.5 monospace; margin: 0; overflow-x: auto; color: var(--body-text-color)}
.pixels {image-rendering: pixelated}
.mosaic {display: grid; gap: 1px; align-content: start}
.mosaic img {width: 100%; display: block}
.seen img, img.seen {border-radius: 4px; object-fit: contain}
.section {font-size: 15px; font-weight: 600; margin: 0 0 4px; line-height: 1.3}
.views {display: grid; grid-template-columns: repeat(auto-fit, minmax(76px, 1fr)); gap: 8px; margin-top: 6px}
.views figure, .steps figure {margin: 0; text-align: center; font-size: 13px; line-height: 1.35; min-width: 0}
.views img, .steps img {width: 100%; border-radius: 4px; display: block; margin-bottom: 3px}
.views figcaption {font-size: 12px; overflow-wrap: anywhere}
.steps {display: flex; gap: 12px; margin-top: 6px}
.steps figure {flex: 0 1 200px}
.views + .note {margin-top: 6px}
#picture img {image-rendering: pixelated; object-fit: contain !important; width: 100%; height: 100%}
#samples .gallery {gap: 5px}
#samples .gallery-item .container {width: 48px; height: 48px}
#samples .gallery-item img {width: 100%; height: 100%; object-fit: cover}
@media (max-width: 760px) {
    .gradio-container main.app, .gradio-container .app {padding: 10px 12px}
    .intro .to-settings {display: inline}
    .intro p, .note {font-size: 14px}
    .cards {grid-template-columns: minmax(0, 1fr); gap: 8px}
    .card .bar:last-child {display: none}
    .card {grid-template-columns: 92px minmax(0, 1fr); padding: 8px 10px}
    .card .seen {width: 92px; height: 92px}
    .views {grid-template-columns: repeat(5, minmax(0, 1fr)); gap: 6px}
    .steps {gap: 6px}
}
"""
