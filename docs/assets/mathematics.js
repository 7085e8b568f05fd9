// MathJax, from this site, on pages with formulas only.
window.MathJax = {
  tex: {
    inlineMath: [["\\(", "\\)"]],
    displayMath: [["\\[", "\\]"]],
    packages: { "[-]": ["noerrors", "noundefined"] }, // What is wrong is to be seen, here and by the check.
  },
  options: { enableMenu: false, ignoreHtmlClass: ".*", processHtmlClass: "arithmatex" },
}
{
  const beside = document.currentScript.src
  if (document.querySelector(".arithmatex")) {
    const script = document.createElement("script")
    script.src = new URL("mathjax/tex-chtml.js", beside)
    document.head.append(script)
  }
}
