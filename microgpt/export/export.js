"use strict";

/* The page of `microgpt export`: a description of the model, and the "Try it" section. */
{
  const { description, model } = JSON.parse(document.getElementById("data").textContent);
  const main = document.getElementById("main");
  const section = element("section", {}, element("h2", {}, "Try it"));
  main.append(element("p", {}, description), section);
  live(section, new Model(model));
}
