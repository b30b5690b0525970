'use strict';
(() => {
  const say = text => { document.getElementById('status').textContent = text; };

  // What a cell sorts by and is copied as.
  const value = cell => (cell.dataset.v ?? (cell.querySelector('small')
    ? cell.firstChild.textContent : cell.textContent)).trim();

  const compare = (a, b, number) => {
    if (number) return parseFloat(a) - parseFloat(b);
    return a.localeCompare(b, undefined, {numeric: true});
  };

  function sort(table, head) {
    const column = head.cellIndex, number = head.classList.contains('number');
    const down = head.getAttribute('aria-sort') === 'ascending';
    for (const other of head.parentNode.cells) other.setAttribute('aria-sort', 'none');
    head.setAttribute('aria-sort', down ? 'descending' : 'ascending');
    const body = table.tBodies[0];
    const undefinedIn = text => text === '' || text === '–' || number && isNaN(parseFloat(text));
    const rows = [...body.rows].map(row => [row, value(row.cells[column])]);
    rows.sort(([, a], [, b]) => {
      if (undefinedIn(a) || undefinedIn(b)) return undefinedIn(a) - undefinedIn(b);
      return down ? compare(b, a, number) : compare(a, b, number);
    });
    body.append(...rows.map(([row]) => row));
    say(`sorted by ${head.textContent}, ${head.getAttribute('aria-sort')}`);
  }

  function filter(box, table) {
    const group = box.querySelector('select')?.value ?? '';
    const words = (box.querySelector('input')?.value ?? '').toLowerCase().split(/\s+/);
    let shown = 0;
    for (const row of table.tBodies[0].rows) {
      const text = row.textContent.toLowerCase();
      row.hidden = group !== '' && row.dataset.group !== group ||
        !words.every(word => text.includes(word));
      if (!row.hidden) shown++;
    }
    box.querySelector('.shown').textContent = `${shown} of ${table.tBodies[0].rows.length} rows`;
  }

  // A text that a spreadsheet would take for a formula gets an apostrophe.
  const quote = (text, number) => {
    if (!number && /^[=+\-@\t\r]/.test(text)) text = "'" + text;
    return /[",\n\r]/.test(text) ? '"' + text.replaceAll('"', '""') + '"' : text;
  };

  function csv(table) {
    const heads = [...table.tHead.rows].at(-1).cells;
    const lines = [[...heads].map(head => quote(
      (head.dataset.set ? head.dataset.set + ' ' : '') + head.textContent.trim()))];
    for (const row of table.tBodies[0].rows) {
      if (row.hidden || row.cells.length !== heads.length) continue;
      lines.push([...row.cells].map((cell, i) => {
        const text = value(cell);
        return quote(text === '–' ? '' : text, heads[i].classList.contains('number'));
      }));
    }
    return lines.map(line => line.join(',')).join('\r\n') + '\r\n';
  }

  async function copy(text) {
    try {
      await navigator.clipboard.writeText(text);
    } catch { // a browser that lets no page from a file use the clipboard
      const area = document.createElement('textarea');
      area.value = text;
      document.body.append(area);
      area.select();
      document.execCommand('copy');
      area.remove();
    }
  }

  for (const box of document.querySelectorAll('.table[data-tools]')) {
    const table = box.querySelector('table');
    for (const head of [...table.tHead.rows].at(-1).cells) {
      head.querySelector('button').addEventListener('click', () => sort(table, head));
    }
    box.querySelector('select')?.addEventListener('change', () => filter(box, table));
    box.querySelector('input')?.addEventListener('input', () => filter(box, table));
    const button = box.querySelector('.copy');
    button.addEventListener('click', async () => {
      await copy(csv(table));
      button.focus();
      say('copied');
      button.textContent = 'Copied';
      setTimeout(() => { button.textContent = 'Copy as CSV'; }, 2000);
    });
  }

  const dialog = document.getElementById('enlarged');
  const pictures = [...document.querySelectorAll('.picture')];
  let current = 0;
  function show(i) {
    current = (i + pictures.length) % pictures.length;
    const from = pictures[current].querySelector('img'), to = dialog.querySelector('img');
    to.src = from.src;
    to.alt = from.alt;
    dialog.querySelector('p').textContent =
      pictures[current].closest('figure').querySelector('figcaption').innerText.replaceAll('\n', ' · ');
  }
  pictures.forEach((picture, i) => picture.addEventListener('click', () => {
    show(i);
    dialog.showModal();
  }));
  for (const button of dialog.querySelectorAll('[data-step]')) {
    button.addEventListener('click', () => show(current + Number(button.dataset.step)));
  }
  dialog.addEventListener('keydown', event => {
    if (event.key === 'ArrowRight') show(current + 1);
    if (event.key === 'ArrowLeft') show(current - 1);
  });
  dialog.addEventListener('click', event => {
    if (event.target === dialog) dialog.close();
  });
  dialog.addEventListener('close', () => pictures[current]?.focus());
})();
