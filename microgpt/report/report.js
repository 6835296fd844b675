"use strict";

/* Puts the views of a report on its page, in the order in which they can be understood. */

function report(data, main) {
  const contents = element("ul");
  main.append(element("nav", { "aria-label": "Contents" }, contents));

  function section(id, title, sentence, children) {
    contents.append(element("li", {}, element("a", { href: `#${id}` }, title)));
    const made = element(
      "section",
      { id, "aria-labelledby": `${id}-title` },
      element("h2", { id: `${id}-title` }, title),
      sentence ? element("p", {}, sentence) : [],
      children,
    );
    main.append(made);
    return made;
  }

  section("run", "The run", "", runView(data));
  section(
    "losses",
    "Losses",
    "How surprised the model was at each step of training: the lower the curve, the better it " +
      "predicted the next character.",
    lossesView(data),
  );
  section(
    "surprise",
    "What surprises it",
    "Each box is a character and how many bits it cost the model: the stronger its colour, the less " +
      "it was expected; below it are the five that the model held to be likeliest there.",
    surpriseView(data),
  );

  const drawn = [],
    which = element(
      "select",
      { id: "text", change: () => drawn.forEach((draw) => draw()) },
      data.texts.map((found, i) => element("option", { value: i }, shown(found.text) || "<end>")),
    );
  /** A section about the chosen text. */
  function reading(id, title, sentence, view) {
    const held = element("div");
    drawn.push(() => held.replaceChildren(...view(data.texts[which.selectedIndex])));
    drawn.at(-1)();
    return section(id, title, sentence, [held]);
  }
  reading(
    "attention",
    "Attention",
    "Each square says how much a character (its row) takes from one before it or itself " +
      "(its column): the stronger the colour, the more (by the square root); a row adds up to 1.",
    attentionView,
  )
    .querySelector("p")
    .after(element("p", {}, element("label", { for: "text" }, "Text in this section and the next two: "), which));
  reading(
    "lens",
    "Logit lens",
    "From left to right, what the model would predict if it stopped there: after the embedding and its norm, and " +
      "after each attention and MLP has added its part; the last step is its prediction.",
    lensView,
  );
  reading(
    "parts",
    "Who decides",
    "What each part of the model adds to the logit (the score) of the character that wins: blue " +
      "speaks for it, orange against it, and a row adds up to the logit.",
    partsView,
  );

  section(
    "embedding",
    "Characters as vectors",
    "Each character is a vector, here seen from the side from which the vectors " +
      "differ most: characters that are close are alike to the model.",
    embeddingView(data),
  );
  if (data.losses)
    section(
      "places",
      "Where it is hard",
      "The average cost of a character in bits, by where it stands and by " +
        "which it is: long bars are what the model finds hard to predict.",
      placesView(data),
    );
  if (data.neurons)
    section(
      "neurons",
      "Neurons",
      "The texts that excite a neuron of the MLP most: it looks at the marked " +
        "character and what comes before it, and the number says how strongly it is active there.",
      neuronsView(data),
    );
  section(
    "samples",
    "What it invents",
    data.samples.new === null && !data.samples.texts[0].run
      ? "Texts that the model wrote, at temperature 0.5."
      : "Texts that the model wrote, at temperature 0.5, and how close they come to what it was trained on: " +
          "the closer, the more of it the model recites.",
    samplesView(data),
  );
  const sentence = "The model itself, to be asked about any text, token by token, and to write.";
  live(section("try", "Try it", sentence, []), new Model(data.model));
}

report(JSON.parse(document.getElementById("data").textContent), document.getElementById("main"));
