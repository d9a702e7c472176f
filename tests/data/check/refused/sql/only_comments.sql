-- later
/* and more */
